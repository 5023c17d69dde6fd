-- Lets a request in under all limits of its key at once, or refuses it and writes nothing that counts.
--
-- A bucket is the time at which it will be full again, in microseconds since 1970 on this server's clock. It expires at
-- that very time: a full bucket and none are the same. So no write, and least of all a refused one, can make a limit
-- last longer than what was charged. Who runs is a set of leases by their ends: those of a frontend that is gone lapse.
-- A budget is what was used of it and since when that is counted; it expires with its day or month, at a time no write can
-- move.
--
-- KEYS[1]  the bucket of requests
-- KEYS[2]  the bucket of tokens
-- KEYS[3]  who runs
-- KEYS[4…] the budgets
-- ARGV[1]  the request
-- ARGV[2]  its lease in microseconds; 0: it will not be settled
-- ARGV[3]  charge of requests, in microseconds of filling
-- ARGV[4]  what a full bucket of requests holds; 0: no limit
-- ARGV[5]  charge of tokens
-- ARGV[6]  what a full bucket of tokens holds; 0: no limit
-- ARGV[7]  how many may run; -1: no limit
-- ARGV[8]  1: what was used of a budget nobody remembers has to be found out first
-- ARGV[9…] for each budget, how much it has, when it ends, in seconds since 1970, and what to take from it
--
-- Returns the verdict (0: come in, 1: requests, 2: tokens, 3: too many run, 4…: this budget), what is missing in both buckets
-- in microseconds of filling, how many run, this server's time, and what is used of each budget; or just -1 for a budget
-- nobody remembers.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function missing(key, whole)
    if whole == 0 then
        return 0
    end
    local full_at = tonumber(redis.call('GET', key) or now)
    -- A clock that is set back must lock nobody out. A settlement may leave a debt, of one bucket at most.
    return math.min(math.max(full_at - now, 0), 2 * whole)
end

local lease = tonumber(ARGV[2])
local charges = {tonumber(ARGV[3]), tonumber(ARGV[5])}
local wholes = {tonumber(ARGV[4]), tonumber(ARGV[6])}
local lacks = {missing(KEYS[1], wholes[1]), missing(KEYS[2], wholes[2])}
local most = tonumber(ARGV[7])

local verdict = 0
for index = 1, 2 do
    if verdict == 0 and wholes[index] > 0 and lacks[index] + charges[index] > wholes[index] then
        verdict = index
    end
end
local running = 0
if lease > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
    running = redis.call('ZCARD', KEYS[3])
end
if verdict == 0 and most >= 0 and running >= most then
    verdict = 3
end
local used = {}
for index = 4, #KEYS do
    local spent = redis.call('HGET', KEYS[index], 'used')
    if not spent and ARGV[8] == '1' then
        return {-1}
    end
    used[index - 3] = tonumber(spent or 0)
    local place = 3 * index - 3
    if verdict == 0 and used[index - 3] + tonumber(ARGV[place + 2]) > tonumber(ARGV[place]) then
        verdict = index
    end
end

if verdict == 0 then
    for index = 1, 2 do
        if wholes[index] > 0 and charges[index] > 0 then
            lacks[index] = lacks[index] + charges[index]
            local full_at = string.format('%.0f', now + lacks[index])
            redis.call('SET', KEYS[index], full_at, 'PX', math.ceil(lacks[index] / 1000))
        end
    end
    if lease > 0 then
        redis.call('ZADD', KEYS[3], now + lease, ARGV[1])
        redis.call('PEXPIRE', KEYS[3], math.ceil(lease / 1000))
        running = running + 1
    end
    for index = 4, #KEYS do
        local place = 3 * index - 3
        if tonumber(ARGV[place + 2]) > 0 then
            used[index - 3] = redis.call('HINCRBY', KEYS[index], 'used', ARGV[place + 2])
            redis.call('HSETNX', KEYS[index], 'since', string.format('%.0f', now))
            redis.call('EXPIREAT', KEYS[index], ARGV[place + 1])
        end
    end
end
local answer = {verdict, lacks[1], lacks[2], running, string.format('%.0f', now)}
for _, spent in ipairs(used) do
    answer[#answer + 1] = spent
end
return answer
