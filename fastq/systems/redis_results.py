"""What is done to outcomes and groups inside Redis.

Outcomes lie in hashes of those whose ids begin with the same 44 bits, 16 ms of time-ordered ids: a key and an
expiry for each would cost more than all the rest. A hash lasts until the last stored of its outcomes expires.

prefix:r:HEX    hash: id to the frame of its outcome
prefix:g:HEX    the ids of a group's members, in order
prefix:c:HEX    set: which of a group's outcomes are terminal
prefix:DB:ends  channel: in one message a script, the terminal outcomes that it stored: "F" and frames, each behind its
                length in 4 bytes, little-endian; or, where that would be much, "I" and their ids
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from fastq.broker import Action
from fastq.completion import Completed
from fastq.outcome import Outcome
from fastq.systems.redis_scripts import SETTLE, Script

_LENGTH = struct.Struct("<I")

#: How Lua knows an action, and an outcome: 0 none, 1 passing, 2 terminal, 3 terminal and of a group.
_CODES = {Action.ACK: b"a", Action.REJECT: b"j", Action.RETRY: b"r", Action.DEAD: b"d"}

# In a frame (docs/protocol.rst) the state is byte 4, 3 to 6 for terminal ones; the id bytes 9 to 24, the group bytes
# 25 to 40, and the attempt bytes 65 to 68.
_STORE = """
local EXPIRES, PREFIX, CHANNEL = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local keys, fresh, ends, size = {}, {}, {}, 0
local function hex(raw) return (string.gsub(raw, '.', function(c) return string.format('%02x', string.byte(c)) end)) end
local function bucket_of(frame)
  local start = string.sub(frame, 9, 14)
  local key = keys[start]
  if not key then
    key = PREFIX .. ':r:' .. string.sub(hex(start), 1, 11)
    keys[start], fresh[key] = key, true
  end
  return key
end
local function store(kind, frame)
  local key, id = bucket_of(frame), string.sub(frame, 9, 24)
  if redis.call('HSETNX', key, id, frame) == 0 then
    local known = redis.call('HGET', key, id)
    local state = string.byte(known, 4)
    if state >= 3 and state <= 6 then return true end
    if struct.unpack('<I4', known, 65) > struct.unpack('<I4', frame, 65) then return false end
    redis.call('HSET', key, id, frame)
  end
  if kind == 49 then return false end
  ends[#ends + 1] = frame
  size = size + #frame
  return true
end
local function count(frame)
  local key = PREFIX .. ':c:' .. hex(string.sub(frame, 25, 40))
  redis.call('SADD', key, string.sub(frame, 9, 24))
  fresh[key] = true
end
local function finish()
  for key in pairs(fresh) do
    if redis.call('PTTL', key) < EXPIRES then redis.call('PEXPIRE', key, EXPIRES) end
  end
  if #ends == 0 then return end
  local tell = {}
  if size <= 4096 then
    for at, frame in ipairs(ends) do tell[at] = struct.pack('<I4', #frame) .. frame end
    redis.call('PUBLISH', CHANNEL, 'F' .. table.concat(tell))
  else
    for at, frame in ipairs(ends) do tell[at] = string.sub(frame, 9, 24) end
    redis.call('PUBLISH', CHANNEL, 'I' .. table.concat(tell))
  end
end
"""

#: KEYS: a hash of outcomes, where that is known. ARGV: expiry in ms, prefix, channel, then kind and frame of each.
#: Returns the places, from 1, of those of groups that are terminal now: they are to be counted, see `COUNT`.
STORE = Script(
    _STORE
    + """
local ended = {}
for at = 4, #ARGV, 2 do
  local kind = string.byte(ARGV[at])
  if store(kind, ARGV[at + 1]) and kind == 51 then
    if #KEYS == 0 then count(ARGV[at + 1]) else ended[#ended + 1] = (at - 2) / 2 end
  end
end
finish()
return ended
"""
)

#: KEYS: a group's set. ARGV: expiry in ms, then ids whose outcomes are terminal.
COUNT = Script("""
redis.call('SADD', KEYS[1], unpack(ARGV, 2))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
""")

#: KEYS: a queue. ARGV: expiry in ms, prefix, channel, now, owner, then each decision with its outcome: a code of the
#: action and the kind, and the record's name behind it; what the action needs; the frame of the outcome, if any.
#: Returns the places, from 1, of the decisions whose message is not held; their outcomes are not stored.
COMPLETE = Script(
    SETTLE
    + _STORE
    + """
local base, now, held = KEYS[1], now_of(ARGV[4]), KEYS[1] .. ':held:' .. ARGV[5]
local live, lost, number, at = all_leased(ARGV[5]), {}, 0, 6
free_memory(base)
while at <= #ARGV do
  local item = ARGV[at]
  local code, kind = string.byte(item, 1, 2)
  at = at + 1
  local kept = live and settle(base, held, code, string.sub(item, 3), at, now)
  number = number + 1
  if not kept then lost[#lost + 1] = number end
  if code == 114 then at = at + 2 elseif code == 100 then at = at + 1 end
  if kind ~= 48 then
    if kept and store(kind, ARGV[at]) and kind == 51 then count(ARGV[at]) end
    at = at + 1
  end
end
finish()
return lost
"""
)


def kind_of(outcome: Outcome) -> bytes:
    """Return how the scripts are to treat an outcome."""
    return (b"3" if outcome.group else b"2") if outcome.state.terminal else b"1"


def completed_arguments(batch: Iterable[Completed]) -> list[bytes | str | int]:
    """Return the arguments of `COMPLETE` for things that all have a decision."""
    arguments: list[bytes | str | int] = []
    append = arguments.append
    for decision, outcome, _ in batch:
        assert decision is not None
        (_, _, token, *_), action, frame, due, reason = decision
        kind = b"0" if outcome is None else kind_of(outcome)
        code = b"a" if action is Action.ACK else _CODES[action]  # to hash an Enum costs a call until Python 3.12
        append(code + kind + token)  # type: ignore[operator]  # the token is ours: the record's name
        if action is Action.RETRY:
            arguments += due, frame
        elif action is Action.DEAD:
            append(reason.encode("utf-8", "replace"))
        if outcome is not None:
            append(outcome.encode())
    return arguments


def bucket(prefix: str, id: bytes) -> str:
    """Return the key of the hash that an id's outcome is in."""
    return f"{prefix}:r:{id[:6].hex()[:11]}"


def told(message: bytes) -> list[tuple[bytes, bytes]]:
    """Return the id and, if it was sent along, the frame of each outcome that a message of the channel tells of."""
    if message[:1] == b"I":
        return [(message[at : at + 16], b"") for at in range(1, len(message), 16)]
    ends: list[tuple[bytes, bytes]] = []
    at = 1
    while at < len(message):
        (size,) = _LENGTH.unpack_from(message, at)
        at += _LENGTH.size
        frame = message[at : at + size]
        ends.append((frame[8:24], frame))
        at += size
    return ends
