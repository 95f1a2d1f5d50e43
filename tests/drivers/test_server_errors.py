"""A server answers with an error: some are waited out, some are final, and nothing is lost by any."""

import asyncio
import functools
import inspect
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest
from store import RedisStore, a_deadline_of, eventually, happened

from redisjobs import DriverError, JobContext, JobQueue, Retry, Unavailable, Worker
from redisjobs.drivers.redis import scripts
from redisjobs.errors import Forbidden, QueueFull, WrongType

pytestmark = pytest.mark.anyio

HANDSHAKE = ("HELLO", "CLIENT", "AUTH", "HGET", "INFO")
SCRIPTS = {scripts.script(name).sha: name for name in scripts.names()}

NOT_NOW = {
    "READONLY": "READONLY You can't write against a read only replica.",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MISCONF": "MISCONF Errors writing to the AOF file: No space left on device",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "clients": "ERR max number of clients reached",
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
}
SPOILED = (
    "WRONGTYPE Operation against a key holding the wrong kind of value"  # what a worker does: test_refusals.py
)
FULL = "OOM command not allowed when used memory > 'maxmemory'."
FINAL = {
    "NOPERM": ("NOPERM User joe has no permissions to run the 'evalsha' command", "ACL forbids"),
    "in a script": (
        "ERR ACL failure in script: User joe has no permissions to run the 'xack' command script: 1",
        "ACL.*joe.*'xack'",
    ),
    "NOAUTH": ("NOAUTH Authentication required.", "refused the credentials"),
    "WRONGPASS": ("WRONGPASS invalid username-password pair or user is disabled.", "refused the credentials"),
    "unknown": ("ERR unknown command 'EVALSHA'", "unknown command 'EVALSHA'"),
}


@dataclass
class Carry:
    job_name: ClassVar[str] = "Carry"
    label: str


class Meddler:
    """Stands before a real server: answers with an error if told to, and passes on all the rest.

    Attributes:
        error: What to answer to everything but the handshake; '' for nothing.
        auth: What to answer to AUTH; '' for nothing.
        first: By a command's name, the answer to its next request. A script's name is its command's.
        asked: How often it was asked what.
        url: Of the store's user, through here.
    """

    def __init__(self, store: RedisStore) -> None:
        self.error = self.auth = ""
        self.first: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self._parts = urlsplit(store.url)
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Meddler"]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        self.url = self._parts._replace(netloc=self._parts.netloc.rpartition(":")[0] + f":{port}").geturl()
        try:
            yield self
        finally:
            listener.close()
            await asyncio.sleep(0)  # who came last is known now
            await self.drop_all()

    async def drop_all(self) -> None:
        """End every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        requests: asyncio.Queue[list[bytes]] = asyncio.Queue()
        hearing = asyncio.create_task(hear(reader, requests, task))
        telling: asyncio.Task[None] | None = None
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            writers.append(server_writer)
            while True:
                request = await requests.get()
                name, answer = self._meddle(request)
                if answer:
                    writer.write(f"-{answer}\r\n".encode())
                    continue
                server_writer.write(written(request))
                if name == "SUBSCRIBE":
                    telling = asyncio.create_task(tell(server_reader, writer))
                elif telling is None:
                    writer.write(await read_reply(server_reader))
        except (asyncio.CancelledError, asyncio.IncompleteReadError, EOFError, OSError):
            pass
        finally:
            self._tasks.discard(task)
            for other in (hearing, telling):
                if other is not None:
                    other.cancel()
            for each in writers:
                each.close()

    def _meddle(self, request: list[bytes]) -> tuple[str, str]:
        """What is asked for, and what to say instead of the server; '' for nothing."""
        name = request[0].decode().upper()
        if name == "EVALSHA":
            name = SCRIPTS[request[1].decode()]
        self.asked[name] += 1
        if name in HANDSHAKE:
            return name, self.auth if name == "AUTH" else ""
        return name, self.first.pop(name, self.error)


async def read_words(reader: asyncio.StreamReader) -> list[bytes]:
    """One request; [] at the end."""
    replies = []
    for _ in range(int((await reader.readline())[1:] or 0)):
        size = int((await reader.readline())[1:])
        replies.append((await reader.readexactly(size + 2))[:-2])
    return replies


def written(replies: Iterable[bytes]) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(reply), reply) for reply in replies]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """One reply, as it came."""
    line = await reader.readline()
    if not line:
        raise EOFError
    number = int(line[1:]) if line[:1] in b"$*" else -1
    if line[:1] == b"$" and number >= 0:
        return line + await reader.readexactly(number + 2)
    if line[:1] == b"*":
        return line + b"".join([await read_reply(reader) for _ in range(number)])
    return line


async def hear(
    reader: asyncio.StreamReader, requests: asyncio.Queue[list[bytes]], task: asyncio.Task[Any]
) -> None:
    """Take requests in; when the client is gone, end its task, whatever the server still owes it."""
    try:
        while request := await read_words(reader):
            requests.put_nowait(request)
    except (asyncio.IncompleteReadError, OSError):
        pass
    task.cancel()


async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what the server says unasked."""
    with suppress(OSError):
        while chunk := await reader.read(4096):
            writer.write(chunk)


class Deployment:
    """A worker behind the meddler, and what it did."""

    def __init__(self, url: str, queue_name: str, lease: float = 15) -> None:
        self.queue = JobQueue(url, queue_name)
        self.worker = Worker(self.queue, grace=0, lease=lease, schedules=False)
        self.starts: list[str] = []
        self.ends: list[str] = []
        self.may_end = anyio.Event()
        self.error: Exception | None = None

        @self.queue.register(Carry)
        async def carry(carry: Carry, context: JobContext) -> None:
            self.starts.append(carry.label)
            if carry.label == "gated":
                await self.may_end.wait()
            if carry.label == "retry" and context.attempt == 1:
                raise Retry(delay=0)
            self.ends.append(carry.label)

    async def run(self) -> None:
        try:
            await self.worker.run()
        except Exception as error:
            self.error = error


@asynccontextmanager
async def at_work(store: RedisStore, *labels: str, lease: float = 15) -> AsyncIterator[tuple[Meddler, Deployment]]:
    """A worker that has begun these jobs, behind a meddler that does nothing yet."""
    meddler = Meddler(store)
    async with meddler.listening(), JobQueue(store.url, store.queue_name) as direct:
        deployment = Deployment(meddler.url, store.queue_name, lease)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deployment.run)
            for label in labels:
                await direct.push(Carry(label), job_id=label)
            await eventually(lambda: set(deployment.starts) == set(labels) and meddler.asked["SUBSCRIBE"])
            yield meddler, deployment
            deployment.worker.stop()
        await deployment.queue.aclose()


def totals(store: RedisStore) -> dict[str, int]:
    found: Any = store.admin.hgetall(f"{store.prefix}stats")
    return {
        name.decode(): int(value) for name, value in found.items() if name in (b"completed", b"dead", b"pushed")
    }


# A worker


@pytest.mark.slow
@pytest.mark.parametrize("error", [*NOT_NOW.values(), FULL], ids=[*NOT_NOW, "OOM"])
async def test_a_worker_waits_without_spinning_until_the_server_answers_again(
    redis_store: RedisStore, error: str
) -> None:
    async with at_work(redis_store, "gated") as (meddler, deployment):
        meddler.error = error
        deployment.may_end.set()
        await eventually(lambda: deployment.ends == ["gated"])
        before, since = meddler.asked.total(), anyio.current_time()
        await anyio.sleep(1.5)
        asked, took = meddler.asked.total() - before, anyio.current_time() - since
        still_there = redis_store.located().keys() == {"gated"}

        meddler.error = ""
        await eventually(lambda: redis_store.located() == {})
        async with JobQueue(redis_store.url, redis_store.queue_name) as direct:
            await direct.push(Carry("after"))
        await eventually(lambda: redis_store.located() == {})

    assert still_there
    # 80 a second, by all its connections, their handshakes too. On a busy machine the sleep takes longer.
    assert asked <= 80 * took, meddler.asked
    assert deployment.error is None
    assert deployment.starts == deployment.ends == ["gated", "after"]
    assert totals(redis_store) == {"pushed": 2, "completed": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("error", "text"), FINAL.values(), ids=FINAL)
async def test_a_worker_ends_by_a_clear_error_and_its_job_is_there_for_the_next(
    redis_store: RedisStore, error: str, text: str
) -> None:
    async with at_work(redis_store, "gated", lease=1) as (meddler, deployment):
        if error.startswith("WRONGPASS"):
            meddler.auth = error
            await meddler.drop_all()
        else:
            meddler.error = error
        deployment.may_end.set()
        with suppress(TimeoutError):
            await eventually(lambda: deployment.error)

    assert isinstance(deployment.error, DriverError)
    assert type(deployment.error) in (DriverError, Forbidden)
    with pytest.raises(DriverError, match=text):
        raise deployment.error
    assert redis_store.located().keys() == {"gated"}
    heir = Deployment(redis_store.url, redis_store.queue_name)
    heir.may_end.set()
    await heir.worker.run(until_idle=True)
    await heir.queue.aclose()
    assert heir.ends == ["gated"]
    assert totals(redis_store) == {"pushed": 1, "completed": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "names"),
    [
        (
            "NOSCRIPT No matching script. Please use EVAL.",
            ["claim", "settle", "beat", "reclaim", "recover", "release"],
        ),
        ("NOGROUP No such key or consumer group", ["claim", "settle", "XREADGROUP", "reclaim", "release"]),
    ],
    ids=["NOSCRIPT", "NOGROUP"],
)
async def test_what_a_server_forgot_it_is_told_again_and_no_one_notices(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture, error: str, names: list[str]
) -> None:
    other = redis_store.consumer("another")
    async with JobQueue(redis_store.url, redis_store.queue_name) as direct:
        await direct.push(Carry("handed back"))
        assert len(await other.wait(1, 0.01)) == 1
        async with at_work(redis_store, "gated") as (meddler, deployment):
            meddler.first = dict.fromkeys(names, error)
            assert await other.release(refund=True, watch=False) == 1  # only the script that claims finds that
            await direct.push_many([Carry("retry"), Carry("after")])
            deployment.may_end.set()
            await eventually(lambda: redis_store.located() == {})
            await deployment.queue.push(Carry("last"))
            await eventually(lambda: redis_store.located() == {} and "reclaim" not in meddler.first)
    await other.aclose()

    left = set(meddler.first) - {"beat", "recover"}  # those may have had no occasion
    assert left == set()
    assert deployment.error is None
    assert Counter(deployment.ends) == dict.fromkeys(("gated", "handed back", "retry", "after", "last"), 1)
    assert not [record for record in caplog.records if "away" in record.message]


@pytest.mark.slow
async def test_while_someone_flushes_scripts_again_and_again_pushes_and_workers_go_on(
    redis_store: RedisStore,
) -> None:
    over = threading.Event()

    def flush() -> None:
        while not over.is_set():
            redis_store.admin.script_flush()

    deployment = Deployment(redis_store.url, redis_store.queue_name)
    deployment.may_end.set()
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(flush)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(deployment.run)
                for number in range(300):
                    await deployment.queue.push(Carry(str(number)))
                await eventually(lambda: redis_store.located() == {}, within=30)
                deployment.worker.stop()
        finally:
            over.set()
        flushing.result()
    await deployment.queue.aclose()

    assert deployment.error is None
    assert Counter(deployment.ends) == Counter(map(str, range(300)))


# A push


async def call(method: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a queue of either face; a sync one in a thread, for the meddler runs in this one."""
    if inspect.iscoroutinefunction(method):
        return await method(*args, **kwargs)
    return await anyio.to_thread.run_sync(functools.partial(method, *args, **kwargs))


@asynccontextmanager
async def pushing(face_type: Any, store: RedisStore) -> AsyncIterator[tuple[Meddler, Any]]:
    async with Meddler(store).listening() as meddler:
        queue = face_type(meddler.url, store.queue_name)
        await call(queue.control.counts)
        yield meddler, queue
        await call(queue.aclose if isinstance(queue, JobQueue) else queue.close)


@pytest.mark.parametrize("error", NOT_NOW.values(), ids=NOT_NOW)
async def test_a_push_is_repeated_until_its_deadline_and_safe_to_repeat_then(
    redis_store: RedisStore, face_type: Any, error: str
) -> None:
    async with pushing(face_type, redis_store) as (meddler, queue):
        meddler.error = error
        started = time.monotonic()
        with (
            a_deadline_of(0.6, queue),
            pytest.raises(Unavailable, match="is not on the queue") as caught,
        ):
            await call(queue.push, Carry("a"))
        took, asked = time.monotonic() - started, meddler.asked["push"]
        (job_id,) = caught.value.job_ids
        meddler.error = ""
        assert [job.id for job in await call(queue.push_many, caught.value.jobs)] == [job_id]
        assert (await call(queue.get, job_id)).state == "ready"

    assert took < 5  # the usual deadline is 10 s
    assert 2 <= asked <= 20
    assert redis_store.located().keys() == {job_id}


@pytest.mark.parametrize("verb", ["get", "counts", "cancel"])
async def test_any_other_call_is_repeated_too(redis_store: RedisStore, face_type: Any, verb: str) -> None:
    script = {"get": "find"}.get(verb, verb)
    async with pushing(face_type, redis_store) as (meddler, queue):
        job_id = (await call(queue.push, Carry("a"))).id
        meddler.first = {script: NOT_NOW["LOADING"]}
        verbs = {
            "get": partial(queue.get, job_id),
            "counts": queue.control.counts,
            "cancel": partial(queue.cancel, job_id),
        }
        answer = await call(verbs[verb])

    match verb:
        case "get":
            assert answer.job_id == job_id
        case "counts":
            assert happened(answer) == {"pushed": 1}
        case "cancel":
            assert answer == "CANCELLED"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (FULL, QueueFull, "out of memory, nothing was written"),
        (SPOILED, WrongType, "WRONGTYPE"),
        *((e, Forbidden if "ACL" in t else DriverError, t) for e, t in FINAL.values()),
    ],
    ids=["OOM", "WRONGTYPE", *FINAL],
)
async def test_a_push_that_can_not_succeed_fails_at_once_and_adds_nothing(
    redis_store: RedisStore, face_type: Any, error: str, kind: type[DriverError], text: str
) -> None:
    async with pushing(face_type, redis_store) as (meddler, queue):
        if error.startswith("WRONGPASS"):
            meddler.auth = error
            await call(queue.aclose if isinstance(queue, JobQueue) else queue.close)
        else:
            meddler.error = error
        with pytest.raises(DriverError, match=text) as caught:
            await call(queue.push, Carry("a"))

    assert type(caught.value) is kind
    assert sum(meddler.asked[script] for script in ("push", "push_plain", "push_one")) <= 1
    assert redis_store.keys() == {}
