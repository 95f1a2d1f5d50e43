"""Answers that need others: of very many consumers a script says that the client is to ask."""

import pytest
from store import RedisStore

from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.pushes import PushCommands
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError
from redisjobs.model.changes import Tidy
from redisjobs.model.driver import Fenced
from redisjobs.model.queries import Count

pytestmark = pytest.mark.anyio


def reply(*running: int) -> list[object]:
    """What the script says of streams of 3,000 entries: how many run; -1 for one with very many consumers."""
    return [[3000] * 3, list(running), 0, 0, 0, 0, [], 0, 0]


def test_a_stream_that_comes_to_very_many_consumers_while_others_are_counted_is_counted_too() -> None:
    counting = long_calls.read(PushCommands("q"), Count())
    assert [command.wire[0] for command in next(counting)] == ["EVALSHA"]
    assert [command.wire[0] for command in counting.send([reply(-1, 20, 30)])] == ["XPENDING", "EVALSHA"]
    listing, _ = counting.send([{b"w1": 7, b"w2": 3, b"released": 5}, reply(-1, 20, -1)])
    assert listing.wire[:2] == ["XPENDING", "redisjobs:{q}:ready:low"]

    with pytest.raises(StopIteration) as done:
        counting.send([{b"w1": 40}, reply(-1, 21, -1)])

    assert done.value.value.running == 10 + 21 + 40


@pytest.mark.parametrize("by", ["XPENDING", "XINFO"])
def test_of_very_many_lost_consumers_those_that_hold_most_jobs_are_looked_at_first(by: str) -> None:
    """Those that are alive, and those that were fenced, have others to look after them."""
    tidying = long_calls.change(PushCommands("q"), Tidy("consumers 1 "))
    next(tidying)
    listing, workers, fenced = tidying.send([[0, b"1 0", 0, 0, 0, 0, 1 if by == "XPENDING" else 2]])
    assert listing.wire[0] == by
    assert [workers.wire[1], fenced.wire[1]] == ["redisjobs:{q}:workers", "redisjobs:{q}:fenced"]
    holding = {b"lives": 9, b"fenced": 9, **{b"empty-%d" % n: 0 for n in range(600)}, b"one": 1, b"two": 2}
    listed = {name: (many, 5) for name, many in holding.items()} if by == "XINFO" else holding

    (step,) = tidying.send([listed, {b"lives"}, {b"fenced"}])

    words = list(step.wire)
    given = words[words.index(b"two") :]
    assert given[:6] == [b"two", "2", given[2], b"one", "1", given[5]]
    assert len(given) == 3 * 500
    assert not {b"lives", b"fenced"} & set(given)


async def test_an_operator_who_looks_at_a_group_that_is_gone_is_not_said_to_be_a_dead_worker(
    redis_store: RedisStore,
) -> None:
    commands = PushCommands(redis_store.queue_name)
    connection = Connection(commands, Target(redis_store.url))
    with pytest.raises(DriverError, match="NOGROUP") as refused:
        await connection.run(commands.consumers_of(1))

    assert not isinstance(refused.value, Fenced)
    await connection.aclose()
