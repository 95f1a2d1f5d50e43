"""Answers that need others: of very many consumers a script says that the client is to ask."""

import pytest
from store import RedisStore

from redisjobs.drivers.redis.commands import Command, Further
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.drivers.redis.queue_commands import QueueCommands
from redisjobs.errors import DriverError
from redisjobs.model.changes import Tidy
from redisjobs.model.driver import Fenced
from redisjobs.model.queries import Count, Counts

pytestmark = pytest.mark.anyio


def reply(*running: int) -> list[object]:
    """What the script says of streams of 3,000 entries: how many run; -1 for one with very many consumers."""
    return [[3000] * 3, list(running), 0, 0, 0, 0, [], 0]


def test_a_stream_that_comes_to_very_many_consumers_while_others_are_counted_is_counted_too() -> None:
    first = QueueCommands("q").counts(Count()).parse(reply(-1, 20, 30))
    assert isinstance(first, Further)
    second = first.join([{b"w1": 7, b"w2": 3, b"released": 5}, reply(-1, 20, -1)])
    assert isinstance(second, Further)
    assert second.commands[0].wire[:2] == ["XPENDING", "redisjobs:{q}:ready:low"]

    counts = second.join([{b"w1": 40}, reply(-1, 21, -1)])

    assert isinstance(counts, Counts)
    assert counts.running == 10 + 21 + 40


@pytest.mark.parametrize("by", ["XPENDING", "XINFO"])
def test_of_very_many_lost_consumers_those_that_hold_most_jobs_are_looked_at_first(by: str) -> None:
    """Those that are alive, and those that were fenced, have others to look after them."""
    tidying: Command[object] = QueueCommands("q").change(Tidy("consumers 1 "))
    further = tidying.parse([0, b"1 0", 0, 0, 0, 0, 1 if by == "XPENDING" else 2])
    assert isinstance(further, Further)
    listing, workers, fenced = further.commands
    assert listing.wire[0] == by
    assert [workers.wire[1], fenced.wire[1]] == ["redisjobs:{q}:workers", "redisjobs:{q}:fenced"]
    holding = {b"lives": 9, b"fenced": 9, **{b"empty-%d" % n: 0 for n in range(600)}, b"one": 1, b"two": 2}
    listed = {name: (many, 5) for name, many in holding.items()} if by == "XINFO" else holding

    step = further.join([listed, {b"lives"}, {b"fenced"}])

    words = list(step.commands[0].wire)
    given = words[words.index(b"two") :]
    assert given[:6] == [b"two", "2", given[2], b"one", "1", given[5]]
    assert len(given) == 3 * 500
    assert not {b"lives", b"fenced"} & set(given)


async def test_an_operator_who_looks_at_a_group_that_is_gone_is_not_said_to_be_a_dead_worker(
    redis_store: RedisStore,
) -> None:
    driver = RedisDriver(redis_store.url, redis_store.queue_name)
    with pytest.raises(DriverError, match="NOGROUP") as refused:
        await driver._run(driver.commands.consumers_of(1))

    assert not isinstance(refused.value, Fenced)
    await driver.aclose()
