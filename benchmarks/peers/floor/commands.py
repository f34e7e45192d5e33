# mypy: ignore-errors
"""Time the Redis commands of a task queue without the queue: ``python -m benchmarks.peers.floor.commands URL SECONDS``.

Prints one JSON object: operations a second by name. Messages are of 200 bytes, results of 50. A task's whole work
is to be pushed (not timed), taken from a list into a hash of what is pending, and settled: deleted from it, with
its result put into a small hash with one expiry, everything for 400 tasks by one script call.
"""

import json
import sys
import time

import hiredis
import redis

from benchmarks.load.resp import RedisAt

MESSAGE = b"m" * 200
RESULT = b"r" * 50
BATCH = 400

TAKE = """
local found = redis.call('RPOP', KEYS[1], ARGV[1])
if not found then return {} end
local pairs_ = {}
for i, message in ipairs(found) do
  pairs_[2 * i - 1] = string.format('%s:%d', ARGV[2], i)
  pairs_[2 * i] = message
end
redis.call('HSET', KEYS[2], unpack(pairs_))
return found
"""
SETTLE = """
local n = tonumber(ARGV[2])
redis.call('HDEL', KEYS[1], unpack(ARGV, 3, 2 + n))
if #ARGV > 2 + n then
  redis.call('HSET', KEYS[2], unpack(ARGV, 3 + n))
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
return n
"""


class Floor:
    def __init__(self, url, seconds):
        self.url, self.seconds = url, seconds
        self.raw = RedisAt(url)
        self.reader = hiredis.Reader()
        self.client = redis.Redis.from_url(url)
        self.take = self.raw.call("SCRIPT", "LOAD", TAKE)
        self.settle = self.raw.call("SCRIPT", "LOAD", SETTLE)

    def measure(self):
        figures = {}
        for name, turn in {
            "LPUSH, one at a time, redis-py": self.push_by_client,
            "LPUSH, one at a time, raw socket": self.push_raw,
            "LPUSH, pipeline of 100, redis-py": self.pipeline_by_client,
            "LPUSH, pipeline of 100, raw socket": self.pipeline_raw,
            "LPUSH of 100 values, raw socket": self.push_many,
        }.items():
            self.raw.flush()
            figures[name] = self.rate(turn)
        for name, keep in {
            "taken and settled, with results": True,
            "taken and settled, without results": False,
        }.items():
            figures[name] = self.whole(keep)
        self.raw.flush()
        return figures

    def rate(self, turn):
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < self.seconds:
            done += turn()
        return done / (time.perf_counter() - began)

    def push_by_client(self):
        self.client.lpush("queue", MESSAGE)
        return 1

    def push_raw(self):
        self.told(hiredis.pack_command(("LPUSH", "queue", MESSAGE)), 1)
        return 1

    def pipeline_by_client(self):
        pipeline = self.client.pipeline(transaction=False)
        for _ in range(100):
            pipeline.lpush("queue", MESSAGE)
        pipeline.execute()
        return 100

    def pipeline_raw(self):
        self.told(b"".join([hiredis.pack_command(("LPUSH", "queue", MESSAGE)) for _ in range(100)]), 100)
        return 100

    def push_many(self):
        self.told(hiredis.pack_command(("LPUSH", "queue", *[MESSAGE] * 100)), 1)
        return 100

    def whole(self, keep):
        self.raw.flush()
        waiting = 0
        timed, done, batch = 0.0, 0, 0
        while timed < self.seconds:
            if waiting < BATCH:
                for _ in range(200):
                    waiting += self.push_many()
            batch += 1
            began = time.perf_counter()
            (found,) = self.told(hiredis.pack_command(("EVALSHA", self.take, 2, "queue", "pending", BATCH, batch)), 1)
            ids = [b"%d:%d" % (batch, number) for number in range(1, len(found) + 1)]
            results = [each for id in ids for each in (id, RESULT)] if keep else []
            self.told(
                hiredis.pack_command(
                    ("EVALSHA", self.settle, 2, "pending", f"results:{batch}", 3600, len(ids), *ids, *results)
                ),
                1,
            )
            timed += time.perf_counter() - began
            waiting -= len(found)
            done += len(found)
        return done / timed

    def told(self, data, replies):
        self.raw.socket.sendall(data)
        found = []
        while len(found) < replies:
            self.reader.feed(self.raw.socket.recv(1 << 18))
            while (reply := self.reader.gets()) is not False:
                if isinstance(reply, Exception):
                    raise reply
                found.append(reply)
        return found


if __name__ == "__main__":
    print(json.dumps(Floor(sys.argv[1], float(sys.argv[2])).measure()))
