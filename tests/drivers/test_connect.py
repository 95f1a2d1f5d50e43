"""Meeting a server: those too old, those that evict, those that refuse, and what their errors mean."""

import importlib.metadata
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from operating import close, done
from store import RedisStore

import redisjobs.sync
from redisjobs import DriverError, JobQueue, Unavailable, Worker
from redisjobs.drivers.redis.driver import RedisDriver, SyncRedisDriver
from redisjobs.errors import Forbidden, QueueFull, ServerTooOld, WrongType
from redisjobs.local import server
from redisjobs.model.driver import Notification
from redisjobs.model.queries import Find

pytestmark = pytest.mark.anyio

NEEDED = "redisjobs needs Redis 7.0 or newer, or Valkey 8.0 or newer"


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int


_NOTHING = {"HGET": b"$-1\r\n"}
"""What a server says of keys that are not there."""


class Pretender(socketserver.ThreadingTCPServer):
    """Speaks RESP, says what the test gave it, and remembers what it was asked.

    Attributes:
        replies: What to answer to a command, by its name; `+OK` to all others.
        asked: The names of the commands it got.
    """

    daemon_threads = True

    def __init__(self, **replies: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.replies = {"HELLO": hello("redis", "7.0.0"), **replies}
        self.asked: list[str] = []
        self.url = f"redis://127.0.0.1:{self.server_address[1]}/0"


class Conversation(socketserver.StreamRequestHandler):
    server: Pretender

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2])
            name = words[0].decode()
            self.server.asked.append(name)
            self.wfile.write(self.server.replies.get(name, _NOTHING.get(name, b"+OK\r\n")))


def hello(name: str, version: str) -> bytes:
    """A reply to HELLO as Redis writes it for RESP 2."""
    facts: list[str | int] = ["server", name, "version", version, "proto", 2, "id", 7, "mode", "standalone"]
    parts = [f":{fact}\r\n" if isinstance(fact, int) else f"${len(fact)}\r\n{fact}\r\n" for fact in facts]
    return f"*{len(parts)}\r\n{''.join(parts)}".encode()


@contextmanager
def pretending(**replies: bytes) -> Iterator[Pretender]:
    with Pretender(**replies) as pretender:
        thread = threading.Thread(target=pretender.serve_forever, args=[0.01])
        thread.start()
        try:
            yield pretender
        finally:
            pretender.shutdown()
            thread.join()


@contextmanager
def at_once() -> Iterator[None]:
    """Not retried until a deadline."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 5


# Too old

CALLS: dict[str, Callable[[Any], Any]] = {
    "push": lambda queue: queue.push(Add(1)),
    "push_many": lambda queue: queue.push_many([Add(1)]),
    "get": lambda queue: queue.get("a"),
    "counts": lambda queue: queue.control.counts(),
    "cancel": lambda queue: queue.cancel("a"),
}


@pytest.mark.parametrize(
    "url", ["redis://joe:secret@host:1/banana", "rediss://joe:secret@host/0/1", "redis://joe:secret@h/0x1"]
)
@pytest.mark.parametrize("queue_of", [JobQueue, redisjobs.sync.JobQueue])
def test_a_url_whose_database_is_no_number_is_refused_without_its_password(queue_of: Any, url: str) -> None:
    with pytest.raises(ValueError, match="is no database of Redis; give a number") as refused:
        queue_of(url)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "version"), [("redis", "6.2.14"), ("redis", "5.0"), ("valkey", "7.2.5"), ("keydb", "6.3.4")]
)
@pytest.mark.parametrize("call", CALLS)
async def test_a_server_too_old_is_refused_whatever_is_asked_of_it_first(
    face_type: Any, call: str, name: str, version: str
) -> None:
    with pretending(HELLO=hello(name, version)) as pretender:
        queue = face_type(pretender.url)
        with pytest.raises(ServerTooOld, match=f"the server is {name} {version}; {NEEDED}"), at_once():
            await done(CALLS[call](queue))
        await close(queue)
        assert set(pretender.asked) <= {"CLIENT", "HELLO", "HGET", "INFO"}


async def test_a_worker_refuses_a_server_too_old() -> None:
    too_old = pretending(HELLO=hello("redis", "6.2.14"))
    with too_old as pretender, pytest.raises(ServerTooOld, match=r"redis 6\.2\.14"), at_once():
        await Worker(JobQueue(pretender.url)).run()


async def test_a_server_too_old_to_know_hello_is_refused_too(face_type: Any) -> None:
    error = b"-ERR unknown command `HELLO`, with args beginning with: \r\n"
    with pretending(HELLO=error) as pretender:
        queue = face_type(pretender.url)
        with pytest.raises(
            ServerTooOld, match=f"the server does not know HELLO, so it is older than 6.0; {NEEDED}"
        ):
            await done(queue.push(Add(1)))
        await close(queue)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("redis", "7.0.0"),
        ("redis", "7.4.0-rc1"),
        ("redis", "10.0"),
        ("valkey", "8.0.0"),
        ("valkey", "255.255.255"),
    ],
)
async def test_a_server_new_enough_is_asked_for_its_version_once_a_connection(
    face_type: Any, name: str, version: str
) -> None:
    replies = {"HELLO": hello(name, version), "EVALSHA": b"*2\r\n:1\r\n$2\r\nOK\r\n"}
    with pretending(**replies) as pretender:
        queue = face_type(pretender.url)
        for connections in (1, 2):
            assert await done(queue.push(Add(1), job_id="mine"))
            assert await done(queue.push(Add(1), job_id="mine"))
            await close(queue)
            assert pretender.asked.count("HELLO") == connections


async def test_after_a_server_was_refused_the_next_call_asks_again(face_type: Any) -> None:
    replies = {"HELLO": hello("redis", "6.2.14"), "EVALSHA": b"*2\r\n:1\r\n$2\r\nOK\r\n"}
    with pretending(**replies) as pretender:
        queue = face_type(pretender.url)
        with pytest.raises(ServerTooOld):
            await done(queue.push(Add(1)))
        pretender.replies["HELLO"] = hello("redis", "7.2.0")  # it was upgraded
        assert await done(queue.push(Add(1)))
        await close(queue)


async def test_neither_a_queue_nor_a_connection_looks_into_installed_metadata(
    face_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[str]()
    monkeypatch.setattr(importlib.metadata, "version", looked.append)
    with pretending(EVALSHA=b"*2\r\n:1\r\n$2\r\nOK\r\n") as pretender:
        queue = face_type(pretender.url)
        assert await done(queue.push(Add(1), job_id="mine"))
        await close(queue)
        assert pretender.asked.count("CLIENT") == 2  # it says its name, and its version as it was looked up before
    assert looked == []


# What errors mean


@pytest.mark.parametrize("driver", [RedisDriver, SyncRedisDriver])
@pytest.mark.parametrize(
    ("error", "ours", "text"),
    [
        ("LOADING Redis is loading the dataset in memory", Unavailable, "loading the dataset"),
        ("READONLY You can't write against a read only replica.", Unavailable, "read only replica"),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            Unavailable,
            "MASTER is down",
        ),
        ("CLUSTERDOWN The cluster is down", Unavailable, "cluster is down"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable, "rehashing"),
        ("BUSY Redis is busy running a script.", Unavailable, "busy running a script"),
        ("NOREPLICAS Not enough good replicas to write.", Unavailable, "good replicas"),
        ("MISCONF Errors writing to the AOF file: No space left on device", Unavailable, "No space left"),
        ("UNBLOCKED force unblock from blocking operation", Unavailable, "force unblock"),
        ("ERR max number of clients reached", Unavailable, "number of clients"),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            QueueFull,
            "out of memory, nothing was written",
        ),
        ("OOM allow-oom flag is not set on the script", QueueFull, "out of memory, nothing was written"),
        ("NOPERM User BUSYBOB has no permissions to run the 'evalsha' command", Forbidden, "ACL forbids"),
        ("NOAUTH Authentication required.", DriverError, "refused the credentials"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", WrongType, "WRONGTYPE"),
        ("MOVED 3999 127.0.0.1:6381", Unavailable, "3999 127.0.0.1:6381"),
        ("ERR user_script:1: no BUSY, READONLY or LOADING here", DriverError, "no BUSY"),
        ("ERR unknown command 'EVALSHA'", DriverError, "unknown command 'EVALSHA'"),
    ],
)
async def test_an_error_says_whether_trying_again_may_help(
    driver: Any, error: str, ours: type[DriverError], text: str
) -> None:
    with pretending(EVALSHA=f"-{error}\r\n".encode()) as pretender:
        asking = driver(pretender.url, "q")
        with pytest.raises(DriverError, match=text) as caught:
            await done(asking.read(Find("a")))
        assert type(caught.value) is ours
        await done(asking.aclose() if driver is RedisDriver else asking.close())


async def test_a_push_is_repeated_until_the_server_has_loaded(face_type: Any) -> None:
    with pretending(EVALSHA=b"-LOADING Redis is loading the dataset in memory\r\n") as pretender:
        queue = face_type(pretender.url)

        over = threading.Event()  # a push that failed is a failure of this test, and no thread that goes on

        def load() -> None:
            while pretender.asked.count("EVALSHA") < 3 and not over.wait(0.001):
                pass
            pretender.replies["EVALSHA"] = b"*2\r\n:1\r\n$2\r\nOK\r\n"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, load)
            try:
                if face_type is JobQueue:
                    assert (await queue.push(Add(1), job_id="mine")).added
                else:
                    assert await anyio.to_thread.run_sync(lambda: queue.push(Add(1), job_id="mine"))
            finally:
                over.set()
        await close(queue)


# Credentials


@pytest.fixture(scope="module")
def locked() -> Iterator[server.Server]:
    """A server that asks for a password: `secret`."""
    with server.start(options=["--requirepass", "secret"]) as running:
        yield running


@pytest.mark.parametrize("credentials", ["", ":wrong@", "unknown:secret@"])
async def test_credentials_that_are_refused_are_an_error_at_once(
    face_type: Any, locked: server.Server, credentials: str
) -> None:
    queue = face_type(locked.url.replace("//", f"//{credentials}"))
    with pytest.raises(DriverError, match="the server refused the credentials") as caught, at_once():
        await done(queue.push(Add(1)))
    assert type(caught.value) is DriverError
    assert "wrong" not in str(caught.value)
    await close(queue)


async def test_credentials_in_the_url_let_in(face_type: Any, locked: server.Server) -> None:
    queue = face_type(locked.url.replace("//", "//:secret@"))
    job_id = await done(queue.push(Add(1)))
    assert (await done(queue.get(job_id))).name == "Add"
    await close(queue)


async def test_an_acl_that_forbids_pushing_is_an_error_at_once(face_type: Any, redis_store: RedisStore) -> None:
    redis_store.admin.execute_command("ACL", "SETUSER", f"user-{redis_store.queue_name}", "-evalsha")
    queue = face_type(redis_store.url, redis_store.queue_name)
    with pytest.raises(Forbidden, match="the server's ACL forbids what this role needs"), at_once():
        await done(queue.push(Add(1)))
    await close(queue)


# What a worker warns of


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_worker_warns_loudly_of_a_server_that_evicts(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with server.start(options=["--maxmemory-policy", policy]) as evicting:
        queue = JobQueue(evicting.url)
        queue.job(name="Add")(lambda: None)
        await Worker(queue).run(until_idle=True)
    (said,) = said_of_the_server(caplog)
    assert said == (
        f"the server evicts keys when memory runs out (maxmemory-policy {policy}): jobs can vanish; "
        "set it to noeviction"
    )


async def test_a_worker_whose_queue_is_pushed_to_as_well_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    ran = anyio.Event()
    with server.start(options=["--maxmemory-policy", "allkeys-lru"]) as evicting:
        queue = JobQueue(evicting.url)
        queue.register(Add)(lambda _: anyio.from_thread.run_sync(ran.set))
        async with queue, anyio.create_task_group() as tasks:
            tasks.start_soon((worker := Worker(queue)).run)
            await queue.push(Add(1))
            await ran.wait()
            worker.stop()
    assert caplog.text.count("the server evicts keys") == 1


def said_of_the_server(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings; not that of a sync queue that blocks this test's event loop."""
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    return [message for message in warnings if "blocks the event loop" not in message]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
@pytest.mark.parametrize("face", [JobQueue, redisjobs.sync.JobQueue])
async def test_a_producer_warns_once_of_a_server_that_evicts(
    face: type[Any], policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with server.start(options=["--maxmemory-policy", policy]) as evicting:
        queue = face(evicting.url)
        for number in range(3):
            await done(queue.push(Add(number)))
        await close(queue)
    (said,) = said_of_the_server(caplog)
    assert said == (
        f"the server evicts keys when memory runs out (maxmemory-policy {policy}): jobs can vanish; "
        "set it to noeviction"
    )


@pytest.mark.parametrize("face", [JobQueue, redisjobs.sync.JobQueue])
async def test_a_producer_that_may_not_ask_says_nothing(
    redis_store: RedisStore, face: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    redis_store.admin.execute_command("ACL", "SETUSER", f"user-{redis_store.queue_name}", "-info", "-config")
    queue = face(redis_store.url, redis_store.queue_name)
    assert (await done(queue.push(Add(1)))).added
    await close(queue)
    assert not said_of_the_server(caplog)


async def test_a_server_that_keeps_everything_is_nothing_to_warn_of(redis_store: RedisStore) -> None:
    consumer = redis_store.consumer("w1")
    assert await consumer.open() == []
    await consumer.aclose()


async def test_a_worker_that_may_not_ask_says_so_and_works(redis_store: RedisStore) -> None:
    redis_store.admin.execute_command("ACL", "SETUSER", f"user-{redis_store.queue_name}", "-info")
    consumer = redis_store.consumer("w1")
    (warning,) = await consumer.open()
    assert warning.startswith("could not read the server's memory policy (the server's ACL forbids")
    assert warning.endswith("make sure it is noeviction")
    assert (await consumer.exchange([], 1)).leases == []
    for _ in range(5):
        await consumer.reclaim()
    (refused,) = (
        each["count"]
        for each in redis_store.admin.acl_log()
        if (each["username"], each["object"]) == (f"user-{redis_store.queue_name}", "info")
    )
    assert refused == 2  # as it opened, and at its first look: it does not fill the log
    await consumer.aclose()


async def test_listening_on_a_connection_that_ends_says_so_in_one_plain_error(redis_store: RedisStore) -> None:
    consumer = redis_store.consumer("w")
    heard: list[Notification] = []

    def kill(notification: Notification) -> None:
        heard.append(notification)
        redis_store.admin.execute_command("CLIENT", "KILL", "USER", redis_store.user)

    with pytest.raises(Unavailable):
        await consumer.listen(kill)
    await consumer.aclose()

    assert heard == [Notification("subscribed", "")]


async def test_a_worker_that_is_forbidden_something_half_way_ends_with_one_plain_error(
    redis_store: RedisStore,
) -> None:
    queue = JobQueue(redis_store.driver, redis_store.queue_name)
    started = anyio.Event()

    @queue.job
    async def forbid() -> None:
        redis_store.admin.execute_command("ACL", "SETUSER", redis_store.user, "-xack")
        started.set()

    await forbid.push()
    with anyio.fail_after(20), pytest.raises(DriverError, match="ACL"):
        await Worker(queue).run()
    await queue.aclose()

    assert started.is_set()
