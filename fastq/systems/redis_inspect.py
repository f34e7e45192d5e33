"""What people ask of queues in Redis: numbers, workers, dead letters. Not on any hot path; see `redis_scripts`."""

from __future__ import annotations

import struct

from fastq.broker import DeadLetter
from fastq.systems.redis_scripts import CLOCK, HEADER, Script

_DEATH = struct.Struct(">QI")  # when, and how long the reason is; then the reason and the record

#: KEYS: a queue. Returns how many messages wait, in constant time.
DEPTH = Script(
    CLOCK
    + """
local base = KEYS[1]
return call('LLEN', base .. ':ready') + call('ZCARD', base .. ':sorted') + call('ZCARD', base .. ':delayed')
  + call('LLEN', base .. ':in')
"""
)

#: KEYS: a queue. ARGV: now. Returns ready, delayed, leased, dead, and the age of the oldest ready one in microseconds.
NUMBERS = Script(
    CLOCK
    + """
local base, now = KEYS[1], now_of(ARGV[1])
local due = call('ZCOUNT', base .. ':delayed', '-inf', string.format('%.0f', now))
local ready = call('LLEN', base .. ':ready') + call('ZCARD', base .. ':sorted') + call('LLEN', base .. ':in') + due
local leased, oldest = 0, now
for _, owner in ipairs(call('ZRANGE', base .. ':owners', 0, -1)) do
  leased = leased + call('HLEN', base .. ':held:' .. owner)
end
local heads = {call('LINDEX', base .. ':ready', 0) or nil}
for rank = 0, 9 do heads[#heads + 1] = call('ZRANGEBYSCORE', base .. ':sorted', rank, rank, 'LIMIT', 0, 1)[1] end
if due > 0 then heads[#heads + 1] = call('ZRANGE', base .. ':delayed', 0, 0)[1] end
for _, record in ipairs(heads) do oldest = math.min(oldest, (struct.unpack('>I8', record))) end
return {ready, call('ZCARD', base .. ':delayed') - due, leased, call('ZCARD', base .. ':dead'), now - oldest}
"""
)

#: KEYS: a queue. Deletes what waits, and returns how many messages that were.
PURGE = Script(
    CLOCK
    + """
local base = KEYS[1]
local count = call('LLEN', base .. ':ready') + call('ZCARD', base .. ':sorted') + call('ZCARD', base .. ':delayed')
  + call('LLEN', base .. ':in')
call('UNLINK', base .. ':ready', base .. ':sorted', base .. ':delayed', base .. ':in')
return count
"""
)

#: KEYS: a queue. ARGV: now. Returns owner, what is left of its lease in microseconds, and about, of each live one.
WORKERS = Script(
    CLOCK
    + """
local base, now, reply = KEYS[1], now_of(ARGV[1]), {}
local live = call('ZRANGEBYSCORE', base .. ':owners', string.format('%.0f', now), '+inf', 'WITHSCORES')
for at = 1, #live, 2 do
  reply[#reply + 1] = live[at]
  reply[#reply + 1] = tonumber(live[at + 1]) - now
  reply[#reply + 1] = call('HGET', base .. ':about', live[at]) or '{}'
end
return reply
"""
)

#: KEYS: a queue. ARGV: how many at most, and the death and the token of the one that they follow, or 0 and nothing.
#: Returns token and letter of each, the oldest first. Letters of one moment are in the order of their tokens.
LETTERS = Script(
    CLOCK
    + """
local base, reply, from = KEYS[1], {}, call('ZCOUNT', KEYS[1] .. ':dead', '-inf', '(' .. ARGV[2])
for _, token in ipairs(call('ZRANGEBYSCORE', base .. ':dead', ARGV[2], ARGV[2])) do
  if token <= ARGV[3] then from = from + 1 end
end
for _, token in ipairs(call('ZRANGE', base .. ':dead', from, from + ARGV[1] - 1)) do
  reply[#reply + 1] = token
  reply[#reply + 1] = call('HGET', base .. ':deads', token) or ''
end
return reply
"""
)

#: KEYS: a queue. ARGV: now, reason, frames. Makes dead letters of them.
BURY = Script(
    CLOCK
    + """
local base, now = KEYS[1], now_of(ARGV[1])
free_memory(base)
local seq = call('INCRBY', base .. ':seq', #ARGV - 2) - (#ARGV - 2)
for at = 3, #ARGV do
  local token = string.format('%016.0f', seq + at - 2)
  local record = struct.pack('>I8I8BI4I4B', now, seq + at - 2, 9, 0, 0, 0) .. ARGV[at]
  call('ZADD', base .. ':dead', string.format('%.0f', now), token)
  call('HSET', base .. ':deads', token, struct.pack('>I8I4', now, #ARGV[2]) .. ARGV[2] .. record)
end
"""
)

#: KEYS: a queue. ARGV: now, the greatest age in microseconds, how many are kept at most; 0: no matter. Deletes the
#: oldest letters that are too old or too many, up to a thousand, and returns how many.
PRUNE = Script(
    CLOCK
    + """
local base, now, count = KEYS[1], now_of(ARGV[1]), 0
if ARGV[2] ~= '0' then count = call('ZCOUNT', base .. ':dead', '-inf', string.format('(%.0f', now - ARGV[2])) end
if ARGV[3] ~= '0' then count = math.max(count, call('ZCARD', base .. ':dead') - ARGV[3]) end
count = math.min(count, 1000)
if count <= 0 then return 0 end
many('HDEL', base .. ':deads', call('ZRANGE', base .. ':dead', 0, count - 1))
return call('ZREMRANGEBYRANK', base .. ':dead', 0, count - 1)
"""
)

#: KEYS: a queue. ARGV: now, 1 to put them back or 0 to drop them, then tokens. Returns how many there were.
EXHUME = Script(
    CLOCK
    + """
local base, now, count = KEYS[1], now_of(ARGV[1]), 0
for at = 3, #ARGV do
  local letter = call('HGET', base .. ':deads', ARGV[at])
  if letter then
    call('HDEL', base .. ':deads', ARGV[at])
    call('ZREM', base .. ':dead', ARGV[at])
    count = count + 1
    if ARGV[2] == '1' then
      local _, size = struct.unpack('>I8I4', letter)
      local record = struct.pack('>I8', now) .. string.sub(letter, 21 + size)
      call('ZADD', base .. ':sorted', string.byte(record, 17), record)
    end
  end
end
if count > 0 then ring(base) end
return count
"""
)


def letter_of(queue: str, token: bytes, letter: bytes) -> DeadLetter:
    """Return a dead letter as people see it; its token says which queue it is in."""
    died_at, size = _DEATH.unpack_from(letter)
    reason = letter[_DEATH.size : _DEATH.size + size].decode("utf-8", "replace")
    frame = letter[_DEATH.size + size + HEADER.size :]
    return DeadLetter(f"{queue}/{int(token)}", queue, reason, died_at, frame)


def place_of(letter: DeadLetter | None) -> tuple[int, str]:
    """Return where a dead letter is, or was, among those of its queue: its moment, and its name at that moment."""
    if letter is None:
        return 0, ""
    split = split_token(letter.token)
    return letter.died_at, split[1] if split else ""


def split_token(token: str) -> tuple[str, str] | None:
    """Return the queue and the name, as Redis keeps it, of a dead letter; None for what is no token."""
    queue, slash, number = token.rpartition("/")
    if not slash or not (number.isascii() and number.isdecimal() and len(number) <= 16):
        return None
    return queue, number.rjust(16, "0")
