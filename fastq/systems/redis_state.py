"""What is done to shared state inside Redis: one Lua script a step, each atomic, by the server's clock.

The keys, all under ``{prefix:state}``, whose braces put them on one slot of a cluster:

:facts:FAMILY   hash: name to the moment at which it expires, in 8 bytes, big-endian, and its value
:start:LIMIT    the latest start under a limit on starts
:slots:LIMIT    sorted set: who holds a slot of another limit, by the end of the lease
:flow:HEX       hash: what is to be done `then`, and `until` when the flow is known
:needs:HEX      set: its tasks that have not ended
:failed:HEX     list: those that failed
:log:NAME       stream: entries, each under the field e

Times are microseconds since the epoch. A key expires by itself a minute after the last of what is in it; but for
logs, which vanish with their key, it is the moments inside that count.
"""

from __future__ import annotations

from fastq.systems.limits import GUESS_US, LATE_US
from fastq.systems.redis_scripts import CLOCK, Script

_COMMON = (
    CLOCK
    + """
local function whole(number) return string.format('%.0f', number) end
local function expires_in_ms(us) return math.ceil((us + LATE) / 1000) end
local function keep(key, us)
  local ms = expires_in_ms(us)
  if call('PTTL', key) < ms then call('PEXPIRE', key, whole(ms)) end
end
""".replace("LATE", str(LATE_US))
)

# -- facts ------------------------------------------------------------------------------------------------

_FACTS = (
    _COMMON
    + """
local key, now = KEYS[1], now_of(ARGV[1])
local function lasts(kept) return kept and struct.unpack('>I8', kept) > now end
local function remove_old(pairs_of)
  local old = {}
  for at = 1, #pairs_of, 2 do
    if not lasts(pairs_of[at + 1]) then old[#old + 1] = pairs_of[at] end
  end
  many('HDEL', key, old)
end
local function put(from)
  local us, pairs_of = tonumber(ARGV[2]), {}
  local head = struct.pack('>I8', now + us)
  for at = from, #ARGV, 2 do
    pairs_of[at - from + 1], pairs_of[at - from + 2] = ARGV[at], head .. ARGV[at + 1]
  end
  many('HSET', key, pairs_of)
  keep(key, us)
  remove_old(call('HRANDFIELD', key, math.min(#pairs_of + 2, 100), 'WITHVALUES'))
end
"""
)

#: KEYS: a family. ARGV: now, how long the facts last, then name and value of each.
PUT = Script(_FACTS + "put(3)")

#: KEYS: a family. ARGV: now, how long the fact lasts, its name, its value. Returns the value that stands, if it is not
#: this one.
PUT_NEW = Script(
    _FACTS
    + """
local known = call('HGET', key, ARGV[3])
if lasts(known) then return string.sub(known, 9) end
put(3)
"""
)

#: KEYS: a family. ARGV: now, how long the fact is to last, its name, its value, and the one that it takes the place of.
#: Returns 1 if that was there.
REPLACE_IF = Script(
    _FACTS
    + """
local known, old = call('HGET', key, ARGV[3]), table.remove(ARGV)
if not lasts(known) or string.sub(known, 9) ~= old then return 0 end
put(3)
return 1
"""
)

#: KEYS: a family. ARGV: now, names. Returns their values, nil where there is none.
GET = Script(
    _FACTS
    + """
local values = {}
for at = 2, #ARGV do
  local kept = call('HGET', key, ARGV[at])
  values[at - 1] = lasts(kept) and string.sub(kept, 9) or false
end
return values
"""
)

#: KEYS: a family. ARGV: now. Returns names and values.
FIND = Script(
    _FACTS
    + """
local found, all = {}, call('HGETALL', key)
for at = 1, #all, 2 do
  if lasts(all[at + 1]) then found[#found + 1], found[#found + 2] = all[at], string.sub(all[at + 1], 9) end
end
if #found < #all then remove_old(all) end
return found
"""
)

#: KEYS: a family. ARGV: now, names. Returns how many there were.
DELETE = Script(
    _FACTS
    + """
local count = 0
for at = 2, #ARGV do
  if lasts(call('HGET', key, ARGV[at])) then count = count + 1 end
  call('HDEL', key, ARGV[at])
end
return count
"""
)

#: KEYS: a family. ARGV: now, name, value. Returns whether it was deleted.
DELETE_IF = Script(
    _FACTS
    + """
local kept = call('HGET', key, ARGV[2])
if not lasts(kept) or string.sub(kept, 9) ~= ARGV[3] then return 0 end
return call('HDEL', key, ARGV[2])
"""
)

# -- limits -----------------------------------------------------------------------------------------------

#: KEYS: the base. ARGV: now, lease, horizon; then of each ask its holder, the number of its limits, and of each of them
#: key, amount and the interval between starts, 0 for a limit on what runs at once.
#: Returns for each ask how long it has to wait, and whether its turn is reserved.
ACQUIRE = Script(
    _COMMON
    + """
local base, now, lease, horizon = KEYS[1], now_of(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local starts, swept, reply, at = {}, {}, {}, 4
free_memory(base)
local function sweep(slots)
  if not swept[slots] then call('ZREMRANGEBYSCORE', slots, '-inf', whole(now)) end
  swept[slots] = true
end
local function latest(start)
  starts[start] = starts[start] or tonumber(call('GET', start) or 0)
  return starts[start]
end
while at <= #ARGV do
  local holder, last = ARGV[at], at + 1 + 3 * tonumber(ARGV[at + 1])
  local slots, rates, held, full, turn = {}, {}, 0, false, now
  for limit = at + 2, last, 3 do
    local amount, interval = tonumber(ARGV[limit + 1]), tonumber(ARGV[limit + 2])
    if interval == 0 then
      local key = base .. ':slots:' .. ARGV[limit]
      sweep(key)
      slots[#slots + 1] = key
      if call('ZSCORE', key, holder) then held = held + 1
      elseif call('ZCARD', key) >= amount then full = true end
    else
      local key = base .. ':start:' .. ARGV[limit]
      rates[key] = interval
      turn = math.max(turn, latest(key) + interval)
    end
  end
  local has_started = #slots > 0 and held == #slots
  local wait, reserved = 0, 0
  if full then wait = math.min(GUESS, horizon)
  elseif not has_started and turn - now > horizon then wait = horizon
  else
    if not has_started then
      for key, interval in pairs(rates) do
        starts[key] = turn
        call('SET', key, whole(turn), 'PX', whole(expires_in_ms(turn + interval - now)))
      end
      wait, reserved = turn - now, turn > now and 1 or 0
    end
    if wait == 0 then
      for _, key in ipairs(slots) do
        call('ZADD', key, whole(now + lease), holder)
        keep(key, lease)
      end
    end
  end
  reply[#reply + 1], reply[#reply + 2] = wait, reserved
  at = last + 1
end
return reply
""".replace("GUESS", str(GUESS_US))
)

#: KEYS: the base. ARGV: now, lease, then key and holder of each slot.
EXTEND = Script(
    _COMMON
    + """
local base, lease = KEYS[1], tonumber(ARGV[2])
local until_us = whole(now_of(ARGV[1]) + lease)
free_memory(base)
for at = 3, #ARGV, 2 do
  local key = base .. ':slots:' .. ARGV[at]
  call('ZADD', key, 'XX', until_us, ARGV[at + 1])
  keep(key, lease)
end
"""
)

#: KEYS: the base. ARGV: key and holder of each slot.
GIVE_BACK = Script(
    _COMMON
    + """
for at = 1, #ARGV, 2 do call('ZREM', KEYS[1] .. ':slots:' .. ARGV[at], ARGV[at + 1]) end
"""
)

# -- flows ------------------------------------------------------------------------------------------------

_FLOWS = (
    _COMMON
    + """
local base = KEYS[1]
local function forget(id) call('UNLINK', base .. ':flow:' .. id, base .. ':needs:' .. id, base .. ':failed:' .. id) end
"""
)

#: KEYS: the base. ARGV: now, how long the flows are kept; then of each its id, in hexadecimal digits, its continuation,
#: how many tasks it needs, and their ids.
OPEN = Script(
    _FLOWS
    + """
local now, us, at = now_of(ARGV[1]), tonumber(ARGV[2]), 3
while at <= #ARGV do
  local id, last = ARGV[at], at + 2 + tonumber(ARGV[at + 2])
  local flow, needs = base .. ':flow:' .. id, base .. ':needs:' .. id
  local until_us = call('HGET', flow, 'until')
  if until_us and tonumber(until_us) <= now then
    forget(id)
    until_us = false
  end
  if not until_us then
    call('HSET', flow, 'then', ARGV[at + 1], 'until', whole(now + us))
    for from = at + 3, last, 1000 do call('SADD', needs, unpack(ARGV, from, math.min(from + 999, last))) end
    keep(flow, us)
    keep(needs, us)
  end
  at = last + 1
end
"""
)

#: KEYS: the base. ARGV: now, then of each arrival the flow's id, in hexadecimal digits, the task's, and 1 if it failed.
#: Returns id, continuation and failed tasks of each flow that waits for nothing more.
ARRIVE = Script(
    _FLOWS
    + """
local now, left, known, reply = now_of(ARGV[1]), {}, {}, {}
free_memory(base)
for at = 2, #ARGV, 3 do
  local id = ARGV[at]
  if left[id] == nil then
    local until_us = call('HGET', base .. ':flow:' .. id, 'until')
    left[id] = until_us and tonumber(until_us) > now and tonumber(until_us) - now
    if left[id] then known[#known + 1] = id end
  end
  if left[id] and call('SREM', base .. ':needs:' .. id, ARGV[at + 1]) == 1 and ARGV[at + 2] == '1' then
    call('RPUSH', base .. ':failed:' .. id, ARGV[at + 1])
    keep(base .. ':failed:' .. id, left[id])
  end
end
for _, id in ipairs(known) do
  if call('EXISTS', base .. ':needs:' .. id) == 0 then
    reply[#reply + 1] = id
    reply[#reply + 1] = call('HGET', base .. ':flow:' .. id, 'then')
    reply[#reply + 1] = call('LRANGE', base .. ':failed:' .. id, 0, -1)
  end
end
return reply
"""
)

#: KEYS: the base. ARGV: ids of flows, in hexadecimal digits.
CLOSE = Script(_FLOWS + "for _, id in ipairs(ARGV) do forget(id) end")

# -- logs -------------------------------------------------------------------------------------------------

#: KEYS: a log. ARGV: how many entries it keeps, how long it lasts, in milliseconds, then entries.
APPEND = Script(
    _COMMON
    + """
for at = 3, #ARGV do call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'e', ARGV[at]) end
call('PEXPIRE', KEYS[1], ARGV[2])
"""
)
