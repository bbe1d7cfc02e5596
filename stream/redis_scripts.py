"""What the log on Redis Streams (`stream/redis_log.py`, which describes the keys) does in one atomic step.

Scripts run on the server and read its clock, so readers need not agree on the time. A server out of memory runs them
too: they write a few bytes, or the same again; readers keep their places, commit, and make room by trimming.
"""

from __future__ import annotations

# KEYS: members, leases, seen. ARGV: reader, membership in ms, partitions, 1 to take and hand over or 0 to renew only,
# group.
# Answers the reader's partitions, each followed by 1 where its lease is new. Time in which no group had a member, the
# whole system being down, makes none of them older.
SHARE = """#!lua flags=allow-oom
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local me, partitions = ARGV[1], tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], me)
local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
if last and now - last > tonumber(ARGV[2]) then
  for _, group in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do redis.call('ZINCRBY', KEYS[3], now - last, group) end
end
redis.call('ZADD', KEYS[3], now, ARGV[5])
local members, mine = redis.call('ZCARD', KEYS[1]), {}
for partition = 0, partitions - 1 do
  if redis.call('HGET', KEYS[2], partition) == me then mine[#mine + 1] = {partition, 0} end
end
if ARGV[4] == '1' then
  local rank, names = 0, redis.call('ZRANGE', KEYS[1], 0, -1)
  for _, name in ipairs(names) do if name < me then rank = rank + 1 end end
  local share = math.floor(partitions / members)
  if rank < partitions % members then share = share + 1 end
  while #mine > share do redis.call('HDEL', KEYS[2], table.remove(mine)[1]) end
  for partition = 0, partitions - 1 do
    if #mine >= share then break end
    local holder = redis.call('HGET', KEYS[2], partition)
    if not holder or not redis.call('ZSCORE', KEYS[1], holder) then
      redis.call('HSET', KEYS[2], partition, me)
      mine[#mine + 1] = {partition, 1}
    end
  end
end
return mine
"""

# KEYS: leases, committed. ARGV: reader, then partition and next offset in turn.
COMMIT = """#!lua flags=allow-oom
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[1] then redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
"""

# KEYS: members, leases. ARGV: reader.
LEAVE = """
redis.call('ZREM', KEYS[1], ARGV[1])
local leases = redis.call('HGETALL', KEYS[2])
for i = 1, #leases, 2 do
  if leases[i + 1] == ARGV[1] then redis.call('HDEL', KEYS[2], leases[i]) end
end
"""

# KEYS: stream, groups, seen. ARGV: prefix of the committed hashes, partition, records to keep, forget after ms.
# Answers the groups that were gone for too long to be waited for. The time of one not seen yet begins now.
TRIM = """#!lua flags=allow-oom
local clock = redis.call('TIME')
local now, gone = clock[1] * 1000 + math.floor(clock[2] / 1000), {}
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return gone end
local keep_from = tonumber(string.match(newest[1], '%d+$')) - ARGV[3]
for _, group in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  redis.call('ZADD', KEYS[3], 'NX', now, group)
  if now - redis.call('ZSCORE', KEYS[3], group) > tonumber(ARGV[4]) then
    gone[#gone + 1] = group
  else
    keep_from = math.min(keep_from, tonumber(redis.call('HGET', ARGV[1] .. group, ARGV[2]) or '0'))
  end
end
if keep_from > 0 then redis.call('XTRIM', KEYS[1], 'MINID', '~', '0-' .. string.format('%.0f', keep_from + 1)) end
return gone
"""
