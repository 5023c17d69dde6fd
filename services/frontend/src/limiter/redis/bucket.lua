-- Charges one bucket: reserves before the work, settles the difference after it.
--
-- A bucket is the time at which it will be full again, in microseconds since 1970 on this server's clock. It expires at
-- that very time: a full bucket and none are the same. So no write, and least of all a refused one, can make a limit
-- last longer than what was charged.
--
-- KEYS[1]  the bucket
-- ARGV[1]  the charge, in microseconds of filling; below zero it gives back
-- ARGV[2]  what a full bucket holds, in microseconds of filling
-- ARGV[3]  1: charge only what the bucket holds (reserve); 0: charge in any case (settle)
--
-- Returns whether it was charged, and what is missing after that, in microseconds of filling.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local charge = tonumber(ARGV[1])
local whole = tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
-- A clock that is set back must lock nobody out. A settlement may leave a debt, of one bucket at most.
local missing = math.min(math.max(full_at - now, 0), 2 * whole)
local after = math.max(missing + charge, 0)
if ARGV[3] == '1' and after > whole then
    return {0, missing}
end
if after == 0 then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], string.format('%.0f', now + after), 'PX', math.ceil(after / 1000))
end
return {1, after}
