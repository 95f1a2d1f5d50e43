"""Pushes of threads that go together: fewer round trips, and to each thread its own answer."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from store import RedisStore

from redisjobs.drivers.redis.coalescer import SyncCoalescer
from redisjobs.drivers.redis.driver import SyncRedisDriver
from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.transitions import NewJob, Pushed, Reply

WITHIN = 10.0  # seconds that a busy machine may take


def job(job_id: str) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"])


class Wire:
    """What pushes go over: it notes each round trip, and waits for `go` to answer it."""

    def __init__(self) -> None:
        self.trips: list[list[str]] = []
        self.repeats: list[bool] = []
        self.go = threading.Event()
        self.error: dict[str, BaseException] = {}
        self.begun = threading.Semaphore(0)

    def send(self, jobs: Sequence[NewJob], repeated: bool, until: float) -> list[Pushed]:
        self.trips.append([job.job_id for job in jobs])
        self.repeats.append(repeated)
        self.begun.release()
        if not self.go.wait(WITHIN):
            raise AssertionError("nobody let it go")
        for one in jobs:
            if one.job_id in self.error:
                raise self.error[one.job_id]
        return [Pushed(Reply.OK, one.job_id) for one in jobs]


class Bench:
    """Threads that push, one after another."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.wire = Wire()
        self.pushes = SyncCoalescer(self.wire.send)
        self._threads = threads

    def push(self, job_id: str, *, repeated: bool = False, within: float = WITHIN) -> str:
        (pushed,) = self.pushes.push([job(job_id)], repeated=repeated, until=time.monotonic() + within)
        return pushed.holder

    def start(self, job_id: str, *, repeated: bool = False, within: float = WITHIN) -> "Future[str]":
        """Push in a thread, and come back when it is under way, or waits."""
        waiting = len(self.pushes._crowd)
        is_first = self.pushes._carrier is None
        future = self._threads.submit(self.push, job_id, repeated=repeated, within=within)
        if is_first:
            assert self.wire.begun.acquire(timeout=WITHIN)
        else:
            eventually(lambda: len(self.pushes._crowd) > waiting)
        return future


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def outcome(future: "Future[str]") -> str | type[BaseException]:
    error = future.exception(WITHIN)
    return type(error) if error is not None else future.result()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ThreadPoolExecutor(100) as threads:
        bench = Bench(threads)
        yield bench
        bench.wire.go.set()
    assert bench.pushes._carrier is None, "the way is not free again"
    assert (len(bench.pushes._crowd), bench.pushes._inside) == (0, set())


def test_a_push_that_finds_the_way_free_goes_at_once_and_alone(bench: Bench) -> None:
    bench.wire.go.set()

    assert [bench.push(name) for name in "abc"] == ["a", "b", "c"]
    assert bench.wire.trips == [["a"], ["b"], ["c"]]


def test_what_threads_push_while_a_push_is_under_way_goes_with_the_next(bench: Bench) -> None:
    futures = [bench.start(name) for name in "abcd"]
    assert bench.wire.trips == [["a"]]

    bench.wire.go.set()

    assert [outcome(future) for future in futures] == ["a", "b", "c", "d"]
    assert bench.wire.trips == [["a"], ["b", "c", "d"]]


def test_a_repetition_goes_with_repetitions_alone(bench: Bench) -> None:
    kinds = {"a": False, "b": False, "c": True, "d": True, "e": False}
    futures = [bench.start(name, repeated=repeated) for name, repeated in kinds.items()]

    bench.wire.go.set()

    assert [outcome(future) for future in futures] == [*kinds]
    assert bench.wire.trips == [["a"], ["b"], ["c", "d"], ["e"]]
    assert bench.wire.repeats == [False, False, True, False]


@pytest.mark.parametrize("error", [Unavailable("away"), QueueFull("full")])
def test_when_the_store_is_away_or_full_every_thread_of_a_round_trip_hears_so(
    bench: Bench, error: DriverError
) -> None:
    futures = [bench.start(name) for name in "abc"]
    bench.wire.error = {"b": error}

    bench.wire.go.set()

    assert [outcome(future) for future in futures] == ["a", type(error), type(error)]
    assert futures[1].exception() is not futures[2].exception()
    bench.wire.error = {}
    assert bench.push("d") == "d"


def test_when_the_store_is_away_those_who_wait_hear_so_too_and_not_one_after_the_other(bench: Bench) -> None:
    futures = [bench.start(name) for name in "abc"]
    bench.wire.error = {"a": Unavailable("away")}

    bench.wire.go.set()

    assert [outcome(future) for future in futures] == [Unavailable] * 3
    assert bench.wire.trips == [["a"]]


def test_a_push_at_fault_fails_alone_and_those_it_went_with_are_pushed(bench: Bench) -> None:
    futures = [bench.start(name) for name in "abcd"]
    bench.wire.error = {"c": DriverError("spoiled")}

    bench.wire.go.set()

    assert [outcome(future) for future in futures] == ["a", "b", DriverError, "d"]
    assert bench.wire.trips == [["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]]
    assert bench.wire.repeats == [False, False, True, True, True]


def test_a_thread_whose_time_is_over_leaves_and_its_push_is_not_sent(bench: Bench) -> None:
    futures = [bench.start("a"), bench.start("b", within=0.05), bench.start("c")]
    assert outcome(futures[1]) is Unavailable

    bench.wire.go.set()

    assert [outcome(future) for future in (futures[0], futures[2])] == ["a", "c"]
    assert bench.wire.trips == [["a"], ["c"]]


@pytest.mark.parametrize("broken", ["a", "b"], ids=["who goes alone", "who carries others"])
def test_what_ends_the_thread_that_has_a_push_under_way_leaves_nobody_waiting(bench: Bench, broken: str) -> None:
    futures = [bench.start(name) for name in "abc"]
    bench.wire.error = {broken: SystemExit()}

    bench.wire.go.set()

    told = [outcome(future) for future in futures]
    assert told == ([SystemExit, "b", "c"] if broken == "a" else ["a", SystemExit, Unavailable])
    bench.wire.error = {}
    assert bench.push("d") == "d"


def test_of_a_thread_that_leaves_just_as_it_is_to_carry_others_another_one_carries_these(bench: Bench) -> None:
    futures = [bench.start(name) for name in "abc"]
    pushes, waiting = bench.pushes, list(bench.pushes._crowd._waiting)
    with pushes._lock:  # as its time ends while it is chosen
        pushes._crowd.take()
        turn = waiting[0].answer
        turn.batch = waiting  # type: ignore[attr-defined]
        thread = turn.thread  # type: ignore[attr-defined]
        first, pushes._carrier = pushes._carrier, thread

    pushes._leave(thread, waiting[0])
    bench.wire.go.set()

    assert outcome(futures[2]) == "c"
    assert bench.wire.trips == [["a"], ["c"]] or bench.wire.trips == [["a"], ["b", "c"]]
    assert first is not None
    turn.batch = None  # type: ignore[attr-defined]
    turn.set_exception(Unavailable("it left"))  # so that its thread, which never left, ends
    assert [outcome(future) for future in futures[:2]] == ["a", Unavailable]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such signal here")
def test_a_signals_handler_that_pushes_does_not_wait_for_what_it_has_interrupted(bench: Bench) -> None:
    told = list[str]()

    def handle(*_: object) -> None:
        bench.wire.go.set()
        told.append(bench.push("of the handler"))

    with handling(signal.SIGUSR1, handle):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert bench.push("a") == "a"
        timer.join()

    assert told == ["of the handler"]


@contextmanager
def handling(number: signal.Signals, handler: Callable[..., None]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_hundred_threads_at_once_each_get_their_own_answer(redis_store: RedisStore) -> None:
    driver = SyncRedisDriver(redis_store.url, redis_store.queue_name)
    names = [f"j{number % 60}" for number in range(100)]  # some ids twice

    def push(name: str) -> tuple[str, Reply]:
        (pushed,) = driver.push([job(name)], repeated=False, until=math.inf)
        return name, pushed.reply

    with ThreadPoolExecutor(100) as threads:
        told = list(threads.map(push, names))

    assert sorted(name for name, reply in told if reply is Reply.OK) == sorted({*names})
    assert len(told) == 100
    assert redis_store.located().keys() == {*names}
    driver.close()
