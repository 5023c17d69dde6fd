-- Tells budgets what was used of them before. Those that are known stay as they are.
--
-- KEYS     the budgets
-- ARGV     for each budget, what was used of it and when it ends, in seconds since 1970
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
for index = 1, #KEYS do
    if redis.call('EXISTS', KEYS[index]) == 0 then
        redis.call('HSET', KEYS[index], 'used', ARGV[2 * index - 1], 'since', now)
        redis.call('EXPIREAT', KEYS[index], ARGV[2 * index])
    end
end
return 1
