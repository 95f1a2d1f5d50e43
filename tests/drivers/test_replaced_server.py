"""A server that another one takes over from: its late answers do not count, and a failure asks again."""

import math
import time
from contextlib import aclosing, closing
from typing import Any

import anyio
import anyio.to_thread
import pytest
from store import RedisStore

from redisjobs.drivers.redis.commands import Command, Commands, hello
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.locator import Address, Search
from redisjobs.drivers.redis.reader import Listener
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError, Unavailable
from redisjobs.local.server import free_port
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio


class Replaced:
    """A locator of a server that `now` has taken over from."""

    def __init__(self, known: Address, now: Address) -> None:
        self.known: Address | None = known
        self._now = now

    def search(self) -> Search:
        yield from ()
        self.known = self._now
        return self.known

    def doubt(self, address: Address | None, error: BaseException) -> None:
        self.known = None


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_late_answer_counts_only_if_its_server_was_not_replaced(
    redis_store: RedisStore, kind: str, replaced: bool
) -> None:
    port = int(redis_store.url.rpartition(":")[2].partition("/")[0])
    with Proxy(HOST, port) as proxy:
        target = Target(redis_store.url)
        here = Address(HOST, proxy.port)
        target.locator = Replaced(here, Address(HOST, port) if replaced else here)
        proxy.delay_reply(0.6, b"HELLO")

        async def ask() -> None:
            if kind == "sync":
                with closing(SyncConnection(Commands("emails"), target)) as sync:
                    await anyio.to_thread.run_sync(sync.run, hello())
            else:
                async with aclosing(Connection(Commands("emails"), target)) as connection:
                    await connection.run(hello())

        if replaced:
            with pytest.raises(Unavailable, match="taken over"):
                await ask()
        else:
            await ask()


@pytest.mark.parametrize("kind", [Connection, SyncConnection])
async def test_a_connection_that_opens_late_is_used_only_if_its_server_was_not_replaced(
    redis_store: RedisStore, kind: type[Any]
) -> None:
    port = int(redis_store.url.rpartition(":")[2].partition("/")[0])
    with Proxy(HOST, port) as proxy:
        target = Target(redis_store.url)
        target.locator = Replaced(Address(HOST, proxy.port), Address(HOST, port))
        connection = kind(Commands("emails"), target)
        opens = "connection" if kind is Connection else "sync_connection"
        make = getattr(target, opens)

        def slow(address: Address | None, *given: Any) -> Any:
            made = make(address, *given)
            connect = made.connect

            async def connect_late() -> None:
                await anyio.sleep(0.6)
                await connect()

            def connect_late_in_a_thread() -> None:
                time.sleep(0.6)
                connect()

            made.connect = connect_late if kind is Connection else connect_late_in_a_thread
            return made

        setattr(target, opens, slow)
        with pytest.raises(Unavailable, match="taken over"):
            await (
                connection.run(hello())
                if kind is Connection
                else anyio.to_thread.run_sync(connection.run, hello())
            )


class Refused(Replaced):
    """A locator whose search fails for good, though it knows the server."""

    def search(self) -> Search:
        yield from ()
        self.known = self._now
        raise DriverError("no sentinel monitors it")


@pytest.mark.parametrize("at_once", [1, 2])
async def test_a_late_answer_that_can_not_be_checked_is_not_taken_for_that_of_the_next_call(
    redis_store: RedisStore, at_once: int
) -> None:
    port = int(redis_store.url.rpartition(":")[2].partition("/")[0])
    with Proxy(HOST, port) as proxy:
        target = Target(redis_store.url)
        here = Address(HOST, proxy.port)
        target.locator = Refused(here, here)
        async with aclosing(Connection(Commands("emails"), target)) as connection:
            proxy.delay_reply(0.6, b"HELLO")
            with pytest.raises(Unavailable, match="no sentinel"):  # the call may have been carried out
                await (connection.run(hello()) if at_once == 1 else connection.run_all([hello()] * at_once))
            target.locator.known = here
            assert await connection.run(Command(["CLIENT", "ID"], int))
        with closing(SyncConnection(Commands("emails"), target)) as sync:
            proxy.delay_reply(0.6, b"HELLO")
            with pytest.raises(Unavailable, match="no sentinel"):
                await anyio.to_thread.run_sync(sync.run, hello())


class Doubted:
    """A locator that another thread makes doubt whenever its address was read."""

    def __init__(self, now: Address) -> None:
        self._now: Address | None = now

    @property
    def known(self) -> Address | None:
        known, self._now = self._now, None
        return known

    search, doubt = Replaced.search, Replaced.doubt


@pytest.mark.parametrize("kind", [Connection, SyncConnection])
async def test_a_server_that_is_doubted_meanwhile_is_not_taken_for_one_without_an_address(
    kind: type[Any],
) -> None:
    target, now = Target(f"redis+cluster://{HOST}"), Address(HOST, 7000)
    target.locator = Doubted(now)
    found = kind(Commands("emails"), target)._find(math.inf)
    assert (await found if kind is Connection else found) == now


async def test_a_listener_that_fails_looks_for_the_server_the_next_time() -> None:
    target = Target(f"redis+cluster://{HOST}:{free_port()}", "emails")
    target.locator.known = Address(HOST, free_port())  # type: ignore[misc]
    with pytest.raises(Unavailable):
        await Listener(Commands("emails"), target).listen(lambda _: None)
    assert target.locator.known is None
