"""What is done to queues inside Redis: one Lua script a step, each atomic, by the server's clock.

The keys of a queue, all under the base ``{prefix:queue}`` whose braces put them on one slot of a cluster:

:ready       list: messages of priority 0 as they were published, the oldest first
:sorted      sorted set, by rank: whatever else is ready, put back, of higher priority or once delayed
:delayed     sorted set, by the moment when it is due
:in          list: what others pushed (LPUSH), in bytes of their own; messages once a fetch comes by
:held:OWNER  hash: what a subscription holds
:owners      sorted set: subscriptions by the end of their leases
:about       hash: what they say of themselves
:dead :deads sorted set and hash: dead letters by the moment of their death, and their bytes
:seq         counter: the message's number, never used twice
:wake        list: a token while there is something for a waiting subscription to do

A record is a header of 26 bytes, big-endian, and the frame: due 8, seq 8, rank 1, fence 4, crashes 4, flags 1
(1: recovered from a dead worker, 2: its attempt began). Its bytes 9 to 21, seq, rank and fence, name it in
`:held:OWNER`: a delivery that is not the latest finds nothing there. Within one score of a sorted set
records lie in the order of their bytes, that is of due and seq. What is ready is the merger of `:ready`
and `:sorted`, each in order, so that a message put back has its old place.

A message leaves its place and is held in one script, so no crash of anybody comes in between. The first write of
every script but `PUBLISH` frees memory, or could, because from then on Redis lets a script write over `maxmemory`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from fastq.systems.redis_wire import pack

#: due, seq, rank, fence, crashes, flags.
HEADER = struct.Struct(">QQBIIB")
FIELD = slice(8, 21)  # of a record: its name among what is held

#: How long a waiting subscription sleeps at most, in microseconds: the backstop for a token that was lost.
LOOK_AGAIN_US = 3_000_000


class Script:
    """A Lua script, called by its digest and sent whole only to a server that does not know it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()

    def call(self, keys: Sequence[str], arguments: Sequence[bytes | str | int]) -> bytes:
        """Return the packed command that calls it."""
        return pack((b"EVALSHA", self._sha, len(keys), *keys, *arguments))

    def load(self) -> bytes:
        """Return the packed command that makes it known."""
        return pack((b"SCRIPT", b"LOAD", self.text))


CLOCK = """
local call = redis.call
local function now_of(given)
  if given ~= '0' then return tonumber(given) end
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end
local function many(command, key, list)
  for from = 1, #list, 1000 do call(command, key, unpack(list, from, math.min(from + 999, #list))) end
end
local function free_memory(base) call('DEL', base .. ':none') end
local function ring(base)
  if call('LLEN', base .. ':wake') == 0 then call('RPUSH', base .. ':wake', 1) end
end
"""

_RECORDS = (
    CLOCK
    + """
local HEADER = '>I8I8BI4I4B'
local function put(base, due, seq, rank, fence, crashes, recovered, frame, now)
  local record = struct.pack(HEADER, due, seq, rank, fence, crashes, recovered) .. frame
  if due > now then call('ZADD', base .. ':delayed', string.format('%.0f', due), record)
  else call('ZADD', base .. ':sorted', rank, record) end
end
local function put_back(base, record, died, now)
  local due, seq, rank, fence, crashes, flags = struct.unpack(HEADER, record)
  local recovered = flags % 2
  if died then
    recovered = 1
    if flags > 1 then crashes = crashes + 1 end
  end
  put(base, due, seq, rank, fence + 1, crashes, recovered, string.sub(record, 27), now)
end
local function end_lease(base, owner, died, now)
  local held = call('HVALS', base .. ':held:' .. owner)
  call('DEL', base .. ':held:' .. owner)
  call('ZREM', base .. ':owners', owner)
  call('HDEL', base .. ':about', owner)
  for _, record in ipairs(held) do put_back(base, record, died, now) end
  if #held > 0 then ring(base) end
  return #held
end
local function sweep(base, spare, now)
  local freed = 0
  for _, owner in ipairs(call('ZRANGEBYSCORE', base .. ':owners', '-inf', string.format('(%.0f', now))) do
    if owner ~= spare then freed = freed + end_lease(base, owner, true, now) end
  end
  return freed
end
local function all_leased(owner)
  for _, base in ipairs(KEYS) do
    if not call('ZSCORE', base .. ':owners', owner) then return false end
  end
  return true
end
"""
)

#: KEYS: a queue. ARGV: now, how many frames follow, the frames; then rank, due and frame of each other message.
PUBLISH = Script(
    CLOCK
    + """
local base, now, plain = KEYS[1], now_of(ARGV[1]), tonumber(ARGV[2])
local count = plain + (#ARGV - 2 - plain) / 3
local seq = call('INCRBY', base .. ':seq', count) - count
local head, tail, records, hurry = struct.pack('>I8', now), struct.pack('>BI4I4B', 9, 0, 0, 0), {}, plain > 0
for at = 1, plain do records[at] = head .. struct.pack('>I8', seq + at) .. tail .. ARGV[2 + at] end
many('RPUSH', base .. ':ready', records)
seq = seq + plain
for at = 3 + plain, #ARGV, 3 do
  seq = seq + 1
  local rank, due = tonumber(ARGV[at]), math.max(tonumber(ARGV[at + 1]), now)
  local record = struct.pack('>I8I8BI4I4B', due, seq, rank, 0, 0, 0) .. ARGV[at + 2]
  if due > now then call('ZADD', base .. ':delayed', string.format('%.0f', due), record)
  else call('ZADD', base .. ':sorted', rank, record) end
  if due < now + LOOK_AGAIN then hurry = true end
end
if hurry then ring(base) end
return count
""".replace("LOOK_AGAIN", str(LOOK_AGAIN_US))
)

#: KEYS: the list of queues, a set. ARGV: names to be in it.
LIST_QUEUES = Script(
    CLOCK
    + """
call('SREM', KEYS[1], '')
call('SADD', KEYS[1], unpack(ARGV))
"""
)

#: KEYS: queues. ARGV: now, owner, lease in microseconds, about.
SUBSCRIBE = Script(
    CLOCK
    + """
local until_us = string.format('%.0f', now_of(ARGV[1]) + tonumber(ARGV[3]))
for _, base in ipairs(KEYS) do
  free_memory(base)
  call('ZADD', base .. ':owners', until_us, ARGV[2])
  call('HSET', base .. ':about', ARGV[2], ARGV[4])
end
"""
)

#: KEYS: queues. ARGV: now, owner, lease. Returns false where the lease has ended.
RENEW = Script(
    _RECORDS
    + """
local now = now_of(ARGV[1])
if not all_leased(ARGV[2]) then return false end
for _, base in ipairs(KEYS) do
  free_memory(base)
  call('ZADD', base .. ':owners', string.format('%.0f', now + tonumber(ARGV[3])), ARGV[2])
end
local freed = 0
for _, base in ipairs(KEYS) do freed = freed + sweep(base, ARGV[2], now) end
return freed
"""
)

#: KEYS: queues. ARGV: now, owner. Ends the lease in good order.
END = Script(
    _RECORDS
    + """
local now = now_of(ARGV[1])
for _, base in ipairs(KEYS) do
  end_lease(base, ARGV[2], false, now)
  if call('LLEN', base .. ':ready') > 0 then ring(base) end
end
"""
)

#: KEYS: queues. ARGV: now, owner, limit, how many of the queues, from the first, are to be claimed from; the others are
#: swept alone. Returns false where the lease has ended; else in how many microseconds there may be something (0:
#: unknown), and then, for each queue something came from, its place in KEYS and its records.
FETCH = Script(
    _RECORDS
    + """
local now, me, limit, served = now_of(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not all_leased(me) then return false end

local function take_in(base)
  local pushed = call('RPOP', base .. ':in', 1000)
  local seq = call('INCRBY', base .. ':seq', #pushed) - #pushed
  for at, frame in ipairs(pushed) do
    pushed[at] = struct.pack(HEADER, now, seq + at, 9, 0, 0, 0) .. frame
  end
  many('RPUSH', base .. ':ready', pushed)
end

local function promote(base)
  local due = call('ZRANGEBYSCORE', base .. ':delayed', '-inf', string.format('%.0f', now), 'LIMIT', 0, 1000)
  if #due == 0 then return end
  many('ZREM', base .. ':delayed', due)
  for at, record in ipairs(due) do
    due[at] = nil
    call('ZADD', base .. ':sorted', string.byte(record, 17), record)
  end
end

local function is_before(one, other)
  local due, seq = struct.unpack('>I8I8', one)
  local other_due, other_seq = struct.unpack('>I8I8', other)
  return due < other_due or (due == other_due and seq < other_seq)
end

local function take_sorted(base, most)
  local taken = call('ZRANGEBYSCORE', base .. ':sorted', '-inf', '(9', 'LIMIT', 0, most)
  if #taken < most then
    local back = call('ZRANGEBYSCORE', base .. ':sorted', 9, 9, 'LIMIT', 0, most - #taken)
    local ready = call('LRANGE', base .. ':ready', 0, most - #taken - 1)
    local b, r, mine, merged = 1, 1, {}, {}
    while #taken + #merged < most and (back[b] or ready[r]) do
      if not ready[r] or (back[b] and is_before(back[b], ready[r])) then
        mine[#mine + 1], merged[#merged + 1] = back[b], back[b]
        b = b + 1
      else
        merged[#merged + 1] = ready[r]
        r = r + 1
      end
    end
    if r > 1 then call('LPOP', base .. ':ready', r - 1) end
    many('ZREM', base .. ':sorted', mine)
    many('ZREM', base .. ':sorted', taken)
    for _, record in ipairs(merged) do taken[#taken + 1] = record end
  else many('ZREM', base .. ':sorted', taken) end
  return taken
end

local function claim(base)
  if call('LLEN', base .. ':in') > 0 then take_in(base) end
  promote(base)
  local records
  if call('ZCARD', base .. ':sorted') > 0 then records = take_sorted(base, limit)
  else records = call('LPOP', base .. ':ready', limit) or {} end
  local pairs_of = {}
  for at, record in ipairs(records) do
    pairs_of[2 * at - 1], pairs_of[2 * at] = string.sub(record, 9, 21), record
  end
  many('HSET', base .. ':held:' .. me, pairs_of)
  limit = limit - #records
  return records
end

local reply = {0}
local function claim_all()
  for place = 1, served do
    if limit > 0 then
      local base = KEYS[place]
      local records = claim(base)
      if #records > 0 then
        reply[#reply + 1], reply[#reply + 2] = place, records
        local next_due = call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')[2]
        if call('LLEN', base .. ':ready') > 0 or call('ZCARD', base .. ':sorted') > 0
          or (next_due and tonumber(next_due) < now + LOOK_AGAIN) then ring(base) end
      end
    end
  end
end

claim_all()
if #reply == 1 then
  local freed = 0
  for _, base in ipairs(KEYS) do freed = freed + sweep(base, me, now) end
  if freed > 0 then claim_all() end
end
if #reply == 1 then
  local ahead = LOOK_AGAIN
  for place, base in ipairs(KEYS) do
    local next_due = place <= served and call('ZRANGE', base .. ':delayed', 0, 0, 'WITHSCORES')[2]
    if next_due then ahead = math.min(ahead, tonumber(next_due) - now) end
    local ends = call('ZRANGE', base .. ':owners', 0, 1, 'WITHSCORES')
    local first = ends[1] == me and ends[4] or ends[2]
    if first and not (ends[1] == me and not ends[4]) then ahead = math.min(ahead, tonumber(first) + 1 - now) end
  end
  reply[1] = math.max(ahead, 1)
end
return reply
""".replace("LOOK_AGAIN", str(LOOK_AGAIN_US))
)

#: KEYS: a queue. ARGV: owner, then the names of records. Returns the places, from 1, of those that are not held.
BEGIN = Script(
    _RECORDS
    + """
local held, lost, live = KEYS[1] .. ':held:' .. ARGV[1], {}, all_leased(ARGV[1])
free_memory(KEYS[1])
for at = 2, #ARGV do
  local record = live and call('HGET', held, ARGV[at])
  if record then
    local flags = 2 + string.byte(record, 26) % 2
    call('HSET', held, ARGV[at], string.sub(record, 1, 25) .. string.char(flags) .. string.sub(record, 27))
  else lost[#lost + 1] = at - 1 end
end
return lost
"""
)

#: KEYS: a queue. ARGV: now, owner, then the names of records.
RELEASE = Script(
    _RECORDS
    + """
local now, held, live = now_of(ARGV[1]), KEYS[1] .. ':held:' .. ARGV[2], all_leased(ARGV[2])
for at = 3, #ARGV do
  local record = live and call('HGET', held, ARGV[at])
  if record then
    call('HDEL', held, ARGV[at])
    put_back(KEYS[1], record, false, now)
  end
end
ring(KEYS[1])
"""
)

#: The step that settles one decision, for `COMPLETE` of `redis_results`.
SETTLE = (
    _RECORDS
    + """
local function settle(base, held, code, field, at, now)
  if code == 97 then return call('HDEL', held, field) == 1 end
  local record = call('HGET', held, field)
  if not record then return false end
  call('HDEL', held, field)
  local due, seq, rank, fence, crashes, flags = struct.unpack(HEADER, record)
  local frame = string.sub(record, 27)
  if code == 106 then
    put(base, due, seq, rank, fence + 1, crashes + 1, flags % 2, frame, now)
    ring(base)
  elseif code == 114 then
    if ARGV[at + 1] ~= '' then frame = ARGV[at + 1] end
    due = math.max(tonumber(ARGV[at]), now)
    put(base, due, seq, rank, fence + 1, crashes, flags % 2, frame, now)
    if due < now + LOOK_AGAIN then ring(base) end
  elseif code == 100 then
    local token = string.format('%016.0f', seq)
    local letter = struct.pack('>I8I4', now, #ARGV[at]) .. ARGV[at]
      .. struct.pack(HEADER, now, seq, rank, fence + 1, 0, 0) .. frame
    call('ZADD', base .. ':dead', string.format('%.0f', now), token)
    call('HSET', base .. ':deads', token, letter)
  end
  return true
end
""".replace("LOOK_AGAIN", str(LOOK_AGAIN_US))
)
