"""The arithmetic of ``window.Window`` as scripts that run inside Redis, in Redis's own time.

A key's window is a hash. Its field ``s`` is the state, eight doubles: the birth of the window (a number that no other
window has), its newest second, the sums of requests and tokens, the last seconds in which either was counted, and the
requests and tokens of the newest second. ``r<second>`` and ``t<second>`` are those of earlier seconds. So a script
reads the state, and of the seconds only those that have left the window since. Requests in flight are a sorted set of
leases by their end.

Times are in ticks, whose length in seconds is the first argument: 1 for a window of a minute, and "second" below means
one of them.
"""

from one_api.limits.window import BUCKETS, LEASE_S, WINDOW_S
from one_api.redis.script import Script

#: A process that has not said for so many seconds that it is there has ended.
BEAT_S = 10

#: Reads the window at KEYS[1] and drops what has left it. A clock that was set far back begins a new window.
_READ = f"""
local clock = redis.call('TIME')
local tick = tonumber(ARGV[1])
local now = (tonumber(clock[1]) + tonumber(clock[2]) / 1000000) / tick
local second = math.floor(now)
local window = KEYS[1]
local used, last, newest = {{r = 0, t = 0}}, {{r = 0, t = 0}}, {{r = 0, t = 0}}
local state = redis.call('HGET', window, 's')
local at, moved = second, true
local birth = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
if state then
  local b, r, t, rl, tl, rn, tn
  b, at, r, t, rl, tl, rn, tn = struct.unpack('dddddddd', state)
  if math.abs(second - at) > {WINDOW_S} then
    redis.call('DEL', window)
    at = second
  else
    birth = b
    used.r, used.t, last.r, last.t, newest.r, newest.t = r, t, rl, tl, rn, tn
    second = math.max(second, at)
    moved = second > at
  end
end
local first = second - {WINDOW_S}
if at < second then
  redis.call('HSET', window, 'r' .. at, newest.r, 't' .. at, newest.t)
  newest = {{r = 0, t = 0}}
  local expired = {{}}
  for old = at - {WINDOW_S}, first - 1 do
    expired[#expired + 1] = 'r' .. old
    expired[#expired + 1] = 't' .. old
  end
  local counts = redis.call('HMGET', window, unpack(expired))
  for i = 1, #counts, 2 do
    used.r = used.r - (tonumber(counts[i]) or 0)
    used.t = used.t - (tonumber(counts[i + 1]) or 0)
  end
  redis.call('HDEL', window, unpack(expired))
end
local function add(kind, when, count)
  if when >= second then
    count = math.max(count, -newest[kind])
    newest[kind] = newest[kind] + count
  else
    local after = redis.call('HINCRBY', window, kind .. when, count)
    if after < 0 then
      redis.call('HSET', window, kind .. when, 0)
      count = count - after
    end
  end
  used[kind] = math.max(0, used[kind] + count)
  if count > 0 then last[kind] = math.max(last[kind], when) end
end
local function save()
  redis.call('HSET', window, 's', struct.pack('dddddddd', birth, second, used.r, used.t, last.r, last.t,
                                              newest.r, newest.t))
  if moved then redis.call('EXPIRE', window, math.ceil({BUCKETS + 1} * tick)) end
end
local function wait(kind, needed)
  if needed <= 0 then return 0 end
  local latest = newest[kind]
  if last[kind] < second then latest = tonumber(redis.call('HGET', window, kind .. last[kind])) or 0 end
  if needed > used[kind] - latest then return math.max(0, last[kind] + {BUCKETS} - now) end
  for begin = first, second - 1, 12 do
    local names = {{}}
    for each = begin, math.min(begin + 11, second - 1) do names[#names + 1] = kind .. each end
    for i, count in ipairs(redis.call('HMGET', window, unpack(names))) do
      needed = needed - (tonumber(count) or 0)
      if needed <= 0 then return math.max(0, begin + i - 1 + {BUCKETS} - now) end
    end
  end
  return second + {BUCKETS} - now
end
local function reset(kind)
  if used[kind] <= 0 then return 0 end
  return math.max(0, last[kind] + {BUCKETS} - now)
end
"""

#: KEYS: window, leases. ARGV: tick, requests, tokens and leases that are allowed (-1: any number), requests, tokens,
#: lease, the birth of the window that must still be there (0: any). Returns ``lost`` and the new birth where it is not.
TAKE = Script.of(
    _READ
    + f"""
local max_requests, max_tokens, max_leases = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local requests, tokens, lease = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
if ARGV[8] ~= '0' and tonumber(ARGV[8]) ~= birth then
  save()
  return {{'lost', birth}}
end
local refused, longest = '', -1
local function refuse(kind, seconds)
  if seconds >= longest then refused, longest = kind, seconds end
end
if used.r + requests > max_requests then
  refuse('requests', wait('r', math.min(used.r + requests - max_requests, used.r)))
end
if max_tokens >= 0 and used.t + tokens > max_tokens then
  refuse('tokens', wait('t', math.min(used.t + tokens - max_tokens, used.t)))
end
if max_leases >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= max_leases then refuse('concurrent', 1) end
end
if refused == '' then
  add('r', second, requests)
  add('t', second, tokens)
  if max_leases >= 0 then
    redis.call('ZADD', KEYS[2], now + {LEASE_S}, lease)
    redis.call('EXPIRE', KEYS[2], {int(LEASE_S) + 1})
  end
end
if refused == '' or moved then save() end
return {{refused, tostring(math.max(0, longest)), used.r, tostring(reset('r')), used.t, tostring(reset('t')), second,
        birth}}
"""
)

#: KEYS: window. ARGV: tick. Returns the requests that count, when the oldest leaves, and when the last does.
STATS = Script.of(
    _READ
    + """
if state and moved then save() end
return {used.r, tostring(wait('r', math.min(1, used.r))), tostring(reset('r'))}
"""
)

#: KEYS: window, leases. ARGV: tick, lease, the second in which it was counted, tokens more than were counted, or fewer.
SETTLE = Script.of(
    _READ
    + """
redis.call('ZREM', KEYS[2], ARGV[2])
local counted, change = tonumber(ARGV[3]), tonumber(ARGV[4])
if counted < first then counted, change = second, math.max(0, change) end
if change ~= 0 then add('t', counted, change) end
if change ~= 0 or state then save() end
return 1
"""
)

#: KEYS: leases. ARGV: XX to keep leases that are there, CH to put them back, too; the leases.
RENEW = Script.of(f"""
local now = tonumber(redis.call('TIME')[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], ARGV[1], now + {LEASE_S}, ARGV[i]) end
redis.call('EXPIRE', KEYS[1], {int(LEASE_S) + 1})
return 1
""")

#: Adds what was counted elsewhere. KEYS: window. ARGV: tick, triples of age, requests and tokens. Returns
#: the birth of the window.
MERGE = Script.of(
    _READ
    + """
save()
for i = 2, #ARGV, 3 do
  local when = second - tonumber(ARGV[i])
  if when >= first then
    add('r', when, tonumber(ARGV[i + 1]))
    add('t', when, tonumber(ARGV[i + 2]))
  end
end
save()
return birth
"""
)

#: KEYS: the memory of Redis, the processes that use it. ARGV: a new name for the memory, this process. Notes that this
#: process is there; returns the name of the memory and of the server, another one once Redis has lost it or an older
#: copy may have taken its place, the number of processes, and how many keys Redis has thrown away to save memory.
BEAT = Script.of(f"""
local now = tonumber(redis.call('TIME')[1])
local function info(section, field)
  local found = redis.pcall('INFO', section)
  return type(found) == 'string' and string.match(found, field .. ':(%w+)') or ''
end
redis.call('SET', KEYS[1], ARGV[1], 'NX')
redis.call('ZADD', KEYS[2], now + {BEAT_S}, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('EXPIRE', KEYS[2], {BEAT_S})
return {{redis.call('GET', KEYS[1]) .. ' ' .. info('server', 'run_id'), redis.call('ZCARD', KEYS[2]),
        tonumber(info('stats', 'evicted_keys')) or 0}}
""")
