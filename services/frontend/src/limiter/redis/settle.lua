-- Ends a request that was let in: what it used stays charged, the rest of what was kept for it is given back. Once for
-- each request: one whose lease has lapsed, or that was settled before, changes nothing.
--
-- KEYS[1]  the bucket of tokens
-- KEYS[2]  who runs
-- KEYS[3…] the budgets
-- ARGV[1]  the request
-- ARGV[2]  what to charge the bucket, in microseconds of filling; below zero it gives back
-- ARGV[3]  what a full bucket holds; 0: no limit
-- ARGV[4]  tokens to take from each budget; below zero it gives back
-- ARGV[5…] for each budget, when it ends, in seconds since 1970
--
-- Returns whether it changed anything.
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
    return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local whole = tonumber(ARGV[3])
if whole > 0 then
    local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
    -- Whoever used more than was kept owes it, one bucket at most.
    local lack = math.max(full_at - now, 0) + tonumber(ARGV[2])
    lack = math.min(math.max(lack, 0), 2 * whole)
    if lack == 0 then
        redis.call('DEL', KEYS[1])
    else
        redis.call('SET', KEYS[1], string.format('%.0f', now + lack), 'PX', math.ceil(lack / 1000))
    end
end
for index = 3, #KEYS do
    local spent = tonumber(redis.call('GET', KEYS[index]) or 0) + tonumber(ARGV[4])
    redis.call('SET', KEYS[index], string.format('%.0f', math.max(spent, 0)), 'EXAT', ARGV[index + 2])
end
return 1
