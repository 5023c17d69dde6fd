-- Makes the leases of requests that still run longer. One that has lapsed stays lapsed.
--
-- KEYS[1]  who runs
-- ARGV[1]  the lease in microseconds
-- ARGV[2…] the requests
local time = redis.call('TIME')
local till = time[1] * 1000000 + time[2] + tonumber(ARGV[1])
for index = 2, #ARGV do
    redis.call('ZADD', KEYS[1], 'XX', till, ARGV[index])
end
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] / 1000))
return 1
