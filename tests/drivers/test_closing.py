"""What is closed or cancelled leaves no connection open, wherever its calls are at that moment."""

import asyncio
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import anyio.to_thread
import pytest
from store import RedisStore, eventually

from redisjobs import JobName, JobQueue
from redisjobs.drivers import sync_side
from redisjobs.drivers.redis.commands import Commands, hello
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.locator import Address, Question, Search
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import Unavailable
from redisjobs.local import server
from redisjobs.model.queries import Count
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio

JOB = JobName("Work", dict[str, int])


class Sought:
    """A locator that asks the server where it is, each time."""

    known = None

    def __init__(self, address: Address) -> None:
        self._address = address

    def search(self) -> Search:
        yield Question(self._address, [["PING"]])
        return self._address

    def doubt(self, address: Address | None, error: BaseException) -> None:
        pass


class Made:
    """A target that notes redis-py's connections."""

    def __init__(self, store: RedisStore) -> None:
        self.target = Target(store.url, store.queue_name)
        known = self.target.locator.known
        assert known is not None
        self.target.locator = Sought(known)
        self._make, self.connections = self.target.connection, list[Any]()
        vars(self.target)["connection"] = self.connection

    def connection(self, *arguments: Any, **options: Any) -> Any:
        self.connections.append(connection := self._make(*arguments, **options))
        return connection

    @property
    def open(self) -> int:
        return sum(each.is_connected for each in self.connections)


@types.coroutine
def acting(call: Coroutine[Any, Any, Any], at: int, act: Callable[[], object]) -> Generator[Any, Any, bool]:
    """Run a call, and act when it waits the n-th time; return whether it waited that often."""
    step, waited = functools.partial(call.send, None), 0
    while True:
        try:
            awaited = step()
        except StopIteration:
            return waited > at
        if waited == at:
            act()
        waited += 1
        try:
            yield awaited
            step = functools.partial(call.send, None)
        except BaseException as error:
            step = functools.partial(call.throw, error)


async def ends_at(at: int, closes: bool, store: RedisStore) -> bool:
    """Close a connection, or cancel its first call, when this waits the n-th time; return whether it did."""
    made, closing = Made(store), list[asyncio.Task[None]]()
    connection = Connection(Commands(store.queue_name), made.target, checks_server=True)

    def end() -> None:
        if closes:
            closing.append(asyncio.create_task(connection.aclose()))
        else:
            task.cancel()

    async def call() -> bool:
        return await acting(connection.run(hello()), at, end)

    task = asyncio.create_task(call())
    has_ended = True
    try:
        has_ended = await task
    except (Unavailable, asyncio.CancelledError):
        pass
    else:
        await connection.aclose()
    await asyncio.gather(*closing)
    assert (at, made.open, made.target.has_open) == (at, 0, False)
    return has_ended


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "cancelled"])
async def test_a_connection_that_ends_while_it_opens_leaves_none_open(
    redis_store: RedisStore, closes: bool
) -> None:
    waits = 0
    while await ends_at(waits, closes, redis_store):
        waits += 1
    assert waits > 5  # the search, the connection, the checks and the call


@pytest.mark.parametrize("how", ["closed", "the call cancelled", "the close cancelled"])
async def test_a_connection_to_a_frozen_server_ends_though_bytes_are_unsent(how: str) -> None:
    """Else each try would leave one open until the server wakes."""
    with server.start() as frozen:
        connection = Connection(Commands("q"), Target(frozen.url, "q"))
        await connection.open()
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            transport = connection.send([["ECHO", b"x" * 20_000_000]])._transport
            assert transport.get_write_buffer_size()
            call = asyncio.create_task(connection.run(hello()))
            await asyncio.sleep(0)
            ending = call if how == "the call cancelled" else asyncio.create_task(connection.aclose())
            await asyncio.sleep(0)
            if how != "closed":
                ending.cancel()
            await asyncio.gather(call, ending, return_exceptions=True)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        assert transport.get_extra_info("socket").fileno() == -1


@pytest.fixture
def slow(redis_store: RedisStore) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the server, and the URL of it."""
    before, _, there = redis_store.url.rpartition("@")
    host, port = there.partition("/")[0].split(":")
    with Proxy(host, int(port)) as proxy:
        yield proxy, f"{before}@{HOST}:{proxy.port}/0"


async def test_a_push_whose_caller_has_left_leaves_no_connection_open_after_the_close(
    redis_store: RedisStore, slow: tuple[Proxy, str]
) -> None:
    proxy, url = slow
    queue = JobQueue(url, redis_store.queue_name)
    target = queue.driver.target  # type: ignore[attr-defined]
    await queue.push({}, JOB)
    proxy.delay(0.03)
    first, *others = (asyncio.create_task(queue.push({}, JOB)) for _ in range(3))
    await first  # now the others are under way together
    for each in others:
        each.cancel()
    await queue.aclose()
    await eventually(lambda: not target.has_open)
    assert (await queue.push({}, JOB)).added
    await queue.aclose()
    assert not target.has_open


async def test_a_sync_call_that_ends_after_the_close_leaves_no_connection_open(
    redis_store: RedisStore, slow: tuple[Proxy, str]
) -> None:
    proxy, url = slow
    with SyncJobQueue(url, redis_store.queue_name) as queue:
        target = queue.driver.target  # type: ignore[attr-defined]
        await anyio.to_thread.run_sync(queue.control.counts)
        proxy.delay(0.03)
        counting = threading.Thread(target=queue.control.counts)
        counting.start()
        await eventually(lambda: queue._store._connections.idle.empty())  # type: ignore[attr-defined]
        queue.close()
        await anyio.to_thread.run_sync(counting.join)
        assert not target.has_open
        assert queue.push({}, JOB).added


FORKING = """
import asyncio, os, sys
from redisjobs import JobName, JobQueue

async def main():
    queue = JobQueue(sys.argv[1], sys.argv[2])
    await queue.push({}, JobName("Work", dict))
    child = os.fork()
    if not child:
        os._exit(queue.driver.target.has_open)
    assert os.waitpid(child, 0)[1] == 0
    assert queue.driver.target.has_open
    await queue.aclose()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_leaves_its_parents_connections_alone(redis_store: RedisStore) -> None:
    command = [sys.executable, "-c", FORKING, redis_store.url, redis_store.queue_name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_a_sync_driver_that_is_forgotten_takes_its_connections_along_at_once(redis_store: RedisStore) -> None:
    """Without a garbage collection: one might warn of its sockets, in any test."""
    driver = sync_side(redis_store.driver)
    driver.read(Count())
    ref = weakref.ref(driver)
    gc.disable()
    try:
        del driver

        assert ref() is None
    finally:
        gc.enable()
