-- Ends a request that was let in: what it used stays charged, the rest of what was kept for it is given back. Once for
-- each request: one whose lease has lapsed, or that was settled before, changes nothing. A budget that was counted anew
-- since the request came knows nothing of what was kept for it, and is charged what it used.
--
-- KEYS[1]  the bucket of tokens
-- KEYS[2]  who runs
-- KEYS[3…] the budgets
-- ARGV[1]  the request
-- ARGV[2]  what to charge the bucket, in microseconds of filling; below zero it gives back
-- ARGV[3]  what a full bucket holds; 0: no limit
-- ARGV[4]  when it was let in, in microseconds since 1970 on this server's clock
-- ARGV[5…] for each budget, what to take beside what was kept, below zero it gives back; and all that was used
--
-- Returns whether it changed anything.
local ran = redis.call('ZREM', KEYS[2], ARGV[1]) == 1
local changed = 0
local whole = tonumber(ARGV[3])
if ran then
    changed = 1
end
if ran and whole > 0 then
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
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
    local since = redis.call('HGET', KEYS[index], 'since')
    local place = 2 * index - 1
    local amount = nil
    if since and tonumber(since) > tonumber(ARGV[4]) then
        amount = ARGV[place + 1]
    elseif since and ran then
        amount = ARGV[place]
    end
    if amount then
        changed = 1
        if redis.call('HINCRBY', KEYS[index], 'used', amount) < 0 then
            redis.call('HSET', KEYS[index], 'used', 0)
        end
    end
end
return changed
