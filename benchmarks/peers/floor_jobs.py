"""The floor: a bare redis-py loop that does what a safe queue has to, and nothing else.

One pipelined round trip settles a batch (owner, delivery count and locator are checked in Lua) and claims the next
100. Each job is parsed by orjson, validated by pydantic, and runs in a task of its own under a timeout of its own.
No delayed jobs, no retries, no lease renewal, no counters, no priorities.
"""

import asyncio
import contextlib
import os
import uuid
from dataclasses import dataclass

import meter
import orjson
import redis
import redis.asyncio
from pydantic import TypeAdapter

URL = os.environ["BENCH_URL"]
STREAM, GROUP, LOCATOR, BATCH = "floor:ready", "workers", "floor:jobs", 100

ACK = """
local words = {}
local done, jobs = {}, {}
for i = 2, #ARGV, 3 do
  local entry = ARGV[i]
  local held = redis.call('XPENDING', KEYS[1], 'workers', entry, entry, 1, ARGV[1])[1]
  if held and held[4] == tonumber(ARGV[i + 1]) and redis.call('HGET', KEYS[2], ARGV[i + 2]) == entry then
    done[#done + 1], jobs[#jobs + 1], words[#words + 1] = entry, ARGV[i + 2], 'OK'
  else
    words[#words + 1] = 'LEASE_LOST'
  end
end
if #done > 0 then
  redis.call('XACK', KEYS[1], 'workers', unpack(done))
  redis.call('XDEL', KEYS[1], unpack(done))
  redis.call('HDEL', KEYS[2], unpack(jobs))
end
return words
"""

PUSH = """
for i = 1, #ARGV, 3 do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
    local entry = redis.call('XADD', KEYS[1], '*', 'id', ARGV[i], 'name', ARGV[i + 1], 'parameters', ARGV[i + 2])
    redis.call('HSET', KEYS[2], ARGV[i], entry)
  end
end
"""


@dataclass
class Parameters:
    text: str


VALID = TypeAdapter(Parameters)


async def noop(parameters):
    meter.count()


async def stamp(parameters):
    meter.stamp(parameters.text)


async def nap(parameters):
    await asyncio.sleep(0.01)
    meter.count()


HANDLERS = {b"noop": noop, b"stamp": stamp, b"nap": nap}


async def run(fields):
    parameters = VALID.validate_python(orjson.loads(fields[b"parameters"]))
    async with asyncio.timeout(60):
        await HANDLERS[fields[b"name"]](parameters)


async def work():
    client = redis.asyncio.from_url(URL)
    ack, worker, settle = client.register_script(ACK), uuid.uuid4().hex, []
    with contextlib.suppress(redis.ResponseError):  # another worker made it
        await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    ack.sha = await client.script_load(ACK)
    while True:
        if settle:
            async with client.pipeline(transaction=False) as pipe:
                pipe.evalsha(ack.sha, 2, STREAM, LOCATOR, worker, *settle)
                pipe.xreadgroup(GROUP, worker, {STREAM: ">"}, count=BATCH)
                _, claimed = await pipe.execute()
        else:
            claimed = await client.xreadgroup(GROUP, worker, {STREAM: ">"}, count=BATCH, block=10_000)
        entries = _entries(claimed)
        settle = []
        for entry, fields in entries:
            settle += (entry, 1, fields[b"id"])
        if entries:
            await asyncio.gather(*(asyncio.create_task(run(fields)) for _, fields in entries))


def _entries(claimed):
    # redis-py answers with a list or a dict, by protocol; entries' fields as dicts.
    if not claimed:
        return []
    rows = next(iter(claimed.values())) if isinstance(claimed, dict) else claimed[0][1]
    if rows and isinstance(rows[0], list) and rows[0] and isinstance(rows[0][0], (list, tuple)):
        rows = rows[0]
    return rows


class Producer:
    async def start(self):
        self.client = redis.asyncio.from_url(URL)
        self.blocking = redis.from_url(URL)
        self.script = self.client.register_script(PUSH)

    async def stop(self):
        self.blocking.close()
        await self.client.aclose()

    async def ping(self, job, text):
        await self.client.ping()

    def ping_sync(self, job, text):
        self.blocking.ping()

    async def xadd(self, job, text):
        await self.client.xadd(STREAM, {"name": job, "parameters": text})

    async def push(self, job, text):
        await self.bulk(job, [text])

    async def bulk(self, job, texts):
        for at in range(0, len(texts), 500):
            arguments = []
            for text in texts[at : at + 500]:
                arguments += (uuid.uuid4().hex, job, orjson.dumps({"text": text}))
            await self.script(keys=[STREAM, LOCATOR], args=arguments)


if __name__ == "__main__":
    import uvloop

    uvloop.run(work())
