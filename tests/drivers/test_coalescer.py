"""Pushes that go together: fewer round trips, and to each caller its own answer."""

import asyncio
import time
from collections.abc import Sequence

import anyio
import pytest
from store import RedisStore

from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.drivers.remote.coalescer import Coalescer
from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable, WrongType
from redisjobs.model.driver import OtherVersion, PushedInPart
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import NewJob, Pushed, Reply

pytestmark = pytest.mark.anyio


def job(job_id: str, size: int = 10) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "x" * size])


class Wire:
    """What pushes go over: it notes each round trip, and waits for `go` to answer it."""

    def __init__(self) -> None:
        self.trips: list[list[str]] = []
        self.repeats: list[bool] = []
        self.until: list[float] = []
        self.go = asyncio.Event()
        self.error: dict[str, Exception] = {}
        self.under_way = self.at_once = 0

    async def send(self, jobs: Sequence[NewJob], again: bool, until: float) -> list[Pushed]:
        self.until.append(until)
        self.trips.append([job.job_id for job in jobs])
        self.repeats.append(again)
        self.under_way += 1
        self.at_once = max(self.at_once, self.under_way)
        try:
            await self.go.wait()
        finally:
            self.under_way -= 1
        for one in jobs:
            if one.job_id in self.error:
                raise self.error[one.job_id]
        return [Pushed(Reply.OK, one.job_id) for one in jobs]


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def push(pushes: Coalescer, job_id: str) -> str | Exception:
    try:
        (pushed,) = await pushes.push([job(job_id)], repeated=False)
    except DriverError as error:
        return error
    return pushed.holder


async def test_a_push_that_finds_the_way_free_goes_at_once_and_alone() -> None:
    wire = Wire()
    wire.go.set()
    pushes = Coalescer(wire.send)

    for job_id in ("a", "b", "c"):
        assert await push(pushes, job_id) == job_id

    assert wire.trips == [["a"], ["b"], ["c"]]


async def test_what_is_pushed_while_a_push_is_under_way_goes_with_the_next() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abcd"]
    await settle()
    assert wire.trips == [["a"]]

    wire.go.set()

    assert await asyncio.gather(*tasks) == list("abcd")
    assert wire.trips == [["a"], ["b", "c", "d"]]


async def test_a_crowd_is_worth_a_second_round_trip_but_no_third() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, str(number))) for number in range(32)]
    await settle()
    assert [len(trip) for trip in wire.trips] == [1]
    tasks += [asyncio.create_task(push(pushes, str(number))) for number in range(32, 200)]
    await settle()
    assert [len(trip) for trip in wire.trips] == [1, 99]  # half of them
    tasks += [asyncio.create_task(push(pushes, str(number))) for number in range(200, 300)]
    await settle()
    assert [len(trip) for trip in wire.trips] == [1, 99]

    wire.go.set()

    assert await asyncio.gather(*tasks) == [str(number) for number in range(300)]
    assert [number for trip in wire.trips for number in trip] == [str(number) for number in range(300)]


async def test_a_round_trip_takes_no_more_than_a_script_should() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    first = asyncio.create_task(push(pushes, "first"))
    await settle()
    many = [
        asyncio.create_task(pushes.push([job(f"{n}-{i}") for i in range(20)], repeated=False)) for n in range(30)
    ]
    await settle()

    wire.go.set()
    await asyncio.gather(first, *many)

    assert max(len(trip) for trip in wire.trips) <= 500
    assert sum(len(trip) for trip in wire.trips) == 601


@pytest.mark.parametrize(
    "error", [Unavailable("gone"), QueueFull("full"), ServerTooOld("6.2"), OtherVersion("9")], ids=repr
)
async def test_when_the_store_is_away_full_or_of_no_use_every_caller_hears_so(error: DriverError) -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abc"]
    await settle()
    wire.error = dict.fromkeys("bc", error)

    wire.go.set()
    first, *others = await asyncio.gather(*tasks)

    assert first == "a"
    assert [(type(one), str(one)) for one in others] == [(type(error), str(error))] * 2


async def test_when_the_store_is_away_those_in_the_queue_hear_so_too_and_not_one_after_the_other() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [
        asyncio.create_task(pushes.push([job(f"{n}-{i}") for i in range(40)], repeated=False)) for n in range(30)
    ]
    await settle()
    wire.error = {f"{n}-0": Unavailable("gone") for n in range(30)}

    wire.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len(wire.trips) == 1


async def test_a_push_that_has_waited_for_so_long_that_it_would_be_late_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abc"]
    await settle()
    monkeypatch.setattr("redisjobs.drivers.remote.coalescer._PATIENCE", 0.0)

    wire.go.set()

    assert [type(answer) for answer in await asyncio.gather(*tasks)] == [str, Unavailable, Unavailable]
    assert wire.trips == [["a"]]
    assert await push(pushes, "d") == "d"


async def test_what_goes_together_is_to_be_answered_before_the_first_of_it_is_late() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    began = time.monotonic()
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abc"]
    await settle()
    since = pushes._waiting[0].since
    wire.go.set()
    await asyncio.gather(*tasks)

    assert began + LONGEST_TRY <= wire.until[0] <= time.monotonic() + LONGEST_TRY
    assert wire.until[1:] == [since + LONGEST_TRY]


async def test_a_repetition_goes_with_repetitions_alone() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    kinds = {"a": False, "b": False, "c": True, "d": True, "e": False}
    tasks = [asyncio.create_task(pushes.push([job(name)], repeated=kind)) for name, kind in kinds.items()]
    await settle()

    wire.go.set()
    await asyncio.gather(*tasks)

    assert wire.trips == [["a"], ["b"], ["c", "d"], ["e"]]
    assert wire.repeats == [False, False, True, False]


async def test_a_push_at_fault_fails_alone_and_those_it_went_with_are_pushed() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abcd"]
    await settle()
    wire.error = {"c": DriverError("no")}

    wire.go.set()
    answers = await asyncio.gather(*tasks)

    assert [answers[0], answers[1], str(answers[2]), answers[3]] == ["a", "b", "no", "d"]
    assert wire.trips[2:] == [["b"], ["c"], ["d"]]
    assert wire.repeats[2:] == [True] * 3  # part of them may be there already
    assert wire.at_once == 1


class TwoCalls(Wire):
    """A wire over which a push goes in two calls; only the second meets what is wrong."""

    def __init__(self, answered: int) -> None:
        super().__init__()
        self.answered = answered

    async def send(self, jobs: Sequence[NewJob], again: bool, until: float) -> list[Pushed]:
        try:
            return await super().send(jobs, again, until)
        except DriverError as error:
            if again:
                raise
            told = [Pushed(Reply.OK, one.job_id) for one in jobs[: self.answered]]
            raise PushedInPart(error, [*told, *[None] * (len(jobs) - self.answered)]) from error


@pytest.mark.parametrize("error", [QueueFull("full"), WrongType("spoiled")], ids=repr)
@pytest.mark.parametrize("spoiled", ["c-1", "d-0"])
async def test_where_a_push_fails_in_part_callers_are_told_what_became_of_their_own(
    error: DriverError, spoiled: str
) -> None:
    wire = TwoCalls(3)
    pushes = Coalescer(wire.send)
    tasks = [
        asyncio.create_task(pushes.push([job(f"{name}-{i}") for i in range(2)], repeated=False)) for name in "abcd"
    ]
    await settle()
    wire.error = {spoiled: error}
    wire.go.set()

    a, b, c, d = await asyncio.gather(*tasks, return_exceptions=True)

    for whole, name in ((a, "a"), (b, "b")):
        assert whole == [Pushed(Reply.OK, f"{name}-{i}") for i in range(2)]
    if isinstance(error, QueueFull) or spoiled == "c-1":
        assert isinstance(c, PushedInPart)
        assert (type(c.cause), str(c)) == (type(error), str(error))
        assert c.answers == [Pushed(Reply.OK, "c-0"), None]
    else:
        assert c == [Pushed(Reply.OK, f"c-{i}") for i in range(2)]
    if isinstance(error, QueueFull) or spoiled == "d-0":
        assert isinstance(d, type(error))
    else:
        assert d == [Pushed(Reply.OK, f"d-{i}") for i in range(2)]


async def test_a_caller_that_leaves_while_waiting_is_not_pushed_and_holds_no_one_up() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abc"]
    await settle()

    tasks[1].cancel()
    wire.go.set()

    assert (await tasks[0], await tasks[2]) == ("a", "c")
    assert wire.trips == [["a"], ["c"]]


async def test_a_caller_that_leaves_on_the_way_breaks_nothing_off_for_the_others() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abcd"]
    await settle()
    wire.go.set()
    wire.go.clear()  # the first is answered, the next is not
    await settle()
    assert wire.trips == [["a"], ["b", "c", "d"]]

    tasks[1].cancel()
    await settle()
    wire.go.set()

    assert (await tasks[2], await tasks[3]) == ("c", "d")
    assert wire.trips == [["a"], ["b", "c", "d"]]
    assert await push(pushes, "e") == "e"


async def test_the_one_that_goes_alone_may_leave_and_the_next_go_on() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abc"]
    await settle()

    tasks[0].cancel()
    wire.go.set()

    assert (await tasks[1], await tasks[2]) == ("b", "c")
    assert wire.trips == [["a"], ["b", "c"]]


async def test_when_all_leave_the_way_is_free_again() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abc"]
    await settle()

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    wire.go.set()

    assert await push(pushes, "d") == "d"
    assert wire.trips == [["a"], ["d"]]


async def test_a_push_that_can_not_even_be_written_is_its_callers_own_trouble() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "abc"]
    await settle()
    wire.error = {"b": UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")}

    wire.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert answers[::2] == ["a", "c"]
    assert isinstance(answers[1], UnicodeEncodeError)


async def test_an_event_loop_that_ends_meanwhile_leaves_no_caller_waiting() -> None:
    wire = Wire()
    pushes = Coalescer(wire.send)
    tasks = [asyncio.create_task(push(pushes, name)) for name in "ab"]
    await settle()
    wire.go.set()
    wire.go.clear()
    await settle()
    tasks.append(asyncio.create_task(push(pushes, "c")))
    await settle()

    (carrying,) = pushes._tasks
    carrying.cancel()

    assert [type(answer) for answer in await asyncio.gather(*tasks)] == [str, Unavailable, Unavailable]


async def test_a_hundred_callers_at_once_each_get_their_own_answer(redis_store: RedisStore) -> None:
    driver = RedisDriver(redis_store.url, redis_store.queue_name)
    answers: dict[int, Pushed] = {}

    async def one(number: int) -> None:
        unique = "key" if number % 10 == 0 else ""
        fields = ["name", "Work", "parameters", "{}"]
        (answers[number],) = await driver.push([NewJob(f"job-{number}", fields, unique=unique)], repeated=False)

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(one, number)

    refused = {number for number, answer in answers.items() if answer.reply is Reply.DUPLICATE}
    assert len(refused) == 9
    assert refused < set(range(0, 100, 10))
    assert len(redis_store.located()) == 91
    await driver.aclose()


async def test_a_push_is_sent_though_the_task_that_was_to_carry_it_was_cancelled_before_its_first_step() -> None:
    wire, tasks_before = Wire(), asyncio.all_tasks()
    pushes = Coalescer(wire.send)

    async def push_and_cancel_all() -> None:
        await push(pushes, "a")  # as its answer comes, a task is made to carry what waited
        for task in asyncio.all_tasks() - {asyncio.current_task()} - tasks_before:
            task.cancel()

    first = asyncio.create_task(push_and_cancel_all())
    second = asyncio.create_task(push(pushes, "b"))
    await settle()
    wire.go.set()
    await asyncio.wait([first, second])

    with anyio.fail_after(5):
        assert await push(pushes, "c") == "c"
