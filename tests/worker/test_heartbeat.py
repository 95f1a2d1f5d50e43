"""The heartbeat's thread outlives whatever goes wrong in it: a thread that ended would lose every job."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest
from store import lease_at

from redisjobs.errors import DriverError, Unavailable
from redisjobs.events import JobsRetried, SettledJob
from redisjobs.model.driver import Beat, Beaten, Fenced, Renewed
from redisjobs.model.recording import Record, Recorded
from redisjobs.model.transitions import Lease, Reply
from redisjobs.worker.source.heartbeat import Beats, Heartbeat, logger
from redisjobs.worker.source.recorder import Recorder

SOON = 5.0  # seconds: many times the lease
LONG = 3600.0  # seconds of a lease; no test waits for a third of it


class Bench:
    """A heartbeat with one part that fails as often as the test says."""

    server = "a server"  # of its consumer, which it is as well

    def __init__(
        self, failing: str = "", error: Exception | None = None, times: int = 0, *, lease: float = 0.3
    ) -> None:
        self.failures_left = times
        self.beaten_after_it = threading.Event()
        self.beats = threading.Semaphore(0)  # one for each that was answered
        self.fences = threading.Semaphore(0)
        self.recorded = threading.Semaphore(0)
        self.looks = threading.Semaphore(0)
        self.closed = False
        self.recorder = Recorder((), logger)
        self._failing, self._error = failing, error
        self.beat_at = 0.0
        self.is_beating = True
        self.knows_it_is_away = False
        self.heartbeat = Heartbeat([cast(Beats, self)], lease, self.look)

    def _maybe_fail(self, part: str) -> None:
        if part == self._failing and self.failures_left:
            self.failures_left -= 1
            assert self._error is not None
            raise self._error

    def held(self) -> Sequence[Lease]:
        self._maybe_fail("held")
        return ()

    def facts(self) -> Mapping[str, str]:
        self._maybe_fail("facts")
        return {}

    @property
    def consumer(self) -> Any:
        return self

    @property
    def sync(self) -> Any:
        return self

    def change(self, change: Record) -> Recorded:
        self._maybe_fail("record")
        self.recorded.release()
        return Recorded(60_000, 1)

    def beat(self, beat: Beat) -> Sequence[Beaten]:
        try:
            self._maybe_fail("beat")
        except Fenced as error:
            return [error]
        return [Renewed(beat.held())]

    def beaten(self, began: float, answer: Renewed) -> None:
        self.beat_at = began
        self._maybe_fail("beaten")
        if not self.failures_left:
            self.beaten_after_it.set()
        self.beats.release()

    def fenced(self, error: Fenced) -> None:
        self._maybe_fail("fenced")
        self.fences.release()

    def look(self) -> None:
        self._maybe_fail("look")
        self.looks.release()

    def release(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run() -> Iterator[Callable[[Bench], Bench]]:
    benches: list[Bench] = []

    def start(bench: Bench) -> Bench:
        benches.append(bench)
        bench.heartbeat.start()
        return bench

    yield start
    for bench in benches:
        bench.heartbeat.stop(SOON)
        assert bench.closed


@pytest.mark.parametrize("error", [ValueError("a defect"), Unavailable("away"), MemoryError(), RecursionError()])
@pytest.mark.parametrize("failing", ["held", "facts", "beat", "beaten", "look"])
def test_it_beats_again_whatever_failed(run: Callable[[Bench], Bench], failing: str, error: Exception) -> None:
    bench = run(Bench(failing, error, times=2))

    assert bench.beaten_after_it.wait(SOON)
    assert bench.failures_left == 0
    assert not bench.heartbeat.broken


def test_it_beats_again_when_there_is_no_thread_left_to_say_what_failed(
    run: Callable[[Bench], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    class None_(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    bench = Bench("beat", ValueError("a defect"), times=2)
    monkeypatch.setattr("redisjobs.base.logger.threading.Thread", None_)
    threads = [bench.heartbeat._thread]

    run(bench)

    assert bench.beaten_after_it.wait(SOON)
    assert threads[0].is_alive()


def test_while_beats_fail_none_counts_as_having_got_through(run: Callable[[Bench], Bench]) -> None:
    bench = Bench("beat", Unavailable("away"), times=10**9)
    beat_at = run(bench).beat_at

    assert not bench.beaten_after_it.wait(0.5)

    assert bench.beat_at == beat_at
    bench.failures_left = 0
    assert bench.beaten_after_it.wait(SOON)
    bench.heartbeat.stop(SOON)
    assert bench.beat_at > beat_at
    assert not bench.heartbeat.broken


@pytest.mark.slow
def test_a_worker_beats_again_and_again_before_its_lease_is_over(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench())
    began = time.monotonic()

    for _ in range(12):  # a third of a lease apart
        assert bench.beats.acquire(timeout=SOON)

    assert time.monotonic() - began < SOON
    assert time.monotonic() - bench.beat_at < SOON


def test_the_first_beat_is_at_once_and_the_next_not_before_its_time(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))

    assert bench.beats.acquire(timeout=SOON)
    assert not bench.beats.acquire(timeout=0.3)


def test_a_beat_that_is_hurried_is_made_at_once_and_once(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))
    assert bench.beats.acquire(timeout=SOON)

    for _ in range(2):
        bench.heartbeat.hurry()

        assert bench.beats.acquire(timeout=SOON)
        assert not bench.beats.acquire(timeout=0.3)


@pytest.mark.slow
def test_a_beat_that_failed_is_tried_again_soon_however_long_the_lease(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench("beat", Unavailable("away"), times=1, lease=LONG))

    assert bench.beats.acquire(timeout=SOON)
    assert not bench.beats.acquire(timeout=0.3)


@pytest.mark.slow
def test_the_loop_is_looked_at_again_and_again_however_long_the_lease(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))

    for _ in range(2):
        assert bench.looks.acquire(timeout=SOON)
    assert bench.beats.acquire(timeout=0)
    assert not bench.beats.acquire(timeout=0)  # a look is no beat


def test_a_beat_counts_from_when_it_was_begun_and_a_worker_that_has_just_begun_as_alive(
    run: Callable[[Bench], Bench],
) -> None:
    """The store starts the lease as it arrives, which is later: a worker gives up before others take over."""
    begun, answer = threading.Event(), threading.Event()

    class Slow(Bench):
        def beat(self, beat: Beat) -> Sequence[Beaten]:
            begun.set()
            assert answer.wait(SOON)
            return [Renewed()]

    bench = Slow(lease=LONG)
    bench.beat_at = 0.0

    run(bench)
    assert begun.wait(SOON)
    started = time.monotonic()
    assert bench.beat_at == 0
    time.sleep(0.05)
    answer.set()
    assert bench.beats.acquire(timeout=SOON)

    assert 0 < bench.beat_at <= started


def test_a_worker_that_is_fenced_is_told_and_its_heartbeat_goes_on_under_its_next_id(
    run: Callable[[Bench], Bench],
) -> None:
    bench = Bench("beat", Fenced("w1"), times=1)
    bench.beat_at = 0.0

    run(bench)

    assert bench.fences.acquire(timeout=SOON)
    assert bench.beats.acquire(timeout=SOON)
    assert not bench.fences.acquire(timeout=0)
    assert not bench.heartbeat.broken


def test_a_beat_that_was_refused_as_the_worker_is_fenced_is_no_sign_of_life(run: Callable[[Bench], Bench]) -> None:
    bench = Bench("beat", Fenced("w1"), times=10**9)
    beat_at = run(bench).beat_at

    for _ in range(2):
        assert bench.fences.acquire(timeout=SOON)

    assert bench.beat_at == beat_at


def test_a_failure_to_handle_the_fence_does_not_end_the_heartbeat(run: Callable[[Bench], Bench]) -> None:
    told = threading.Semaphore(0)

    class Failing(Bench):
        def fenced(self, error: Fenced) -> None:
            told.release()
            raise RuntimeError("the event loop is closed")

    bench = run(Failing("beat", Fenced("w1"), times=2))

    for _ in range(2):
        assert told.acquire(timeout=SOON)
    assert bench.beats.acquire(timeout=SOON)
    assert not bench.heartbeat.broken


def test_a_stopped_heartbeat_beats_no_more_and_closes_its_connection(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))
    assert bench.beats.acquire(timeout=SOON)
    began = time.monotonic()

    bench.heartbeat.stop(SOON)

    assert time.monotonic() - began < SOON
    assert bench.closed
    assert not bench.beats.acquire(timeout=0)
    assert not bench.heartbeat.broken


def test_a_heartbeat_that_hangs_in_a_beat_is_waited_for_no_longer_than_asked_nor_by_the_process() -> None:
    asked, answer = threading.Event(), threading.Event()

    class Hanging(Bench):
        def beat(self, beat: Beat) -> Sequence[Beaten]:
            asked.set()
            answer.wait(4 * SOON)
            return [Renewed()]

    bench = Hanging()
    bench.heartbeat.start()
    assert asked.wait(SOON)
    (thread,) = (each for each in threading.enumerate() if each.name == "redisjobs heartbeat")
    began = time.monotonic()

    bench.heartbeat.stop(0.1)

    assert time.monotonic() - began < SOON
    assert thread.daemon
    answer.set()
    thread.join(SOON)
    assert bench.closed


def said(caplog: pytest.LogCaptureFixture, lines: int) -> list[tuple[str, str]]:
    """What was logged, once it is this many lines: threads of their own write them."""
    until = time.monotonic() + SOON
    while len(caplog.records) < lines and time.monotonic() < until:
        time.sleep(0.01)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_that_beats_fail_is_said_once_and_that_they_succeed_again(
    run: Callable[[Bench], Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    bench = run(Bench("beat", Unavailable("away"), times=3))

    assert bench.beaten_after_it.wait(SOON)
    for _ in range(3):
        assert bench.beats.acquire(timeout=SOON)

    assert said(caplog, 2) == [
        ("WARNING", "no heartbeat got through, retrying: away"),
        ("INFO", "heartbeats get through again"),
    ]


def test_that_beats_fail_is_not_said_where_the_outage_was(
    run: Callable[[Bench], Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    bench = Bench("beat", Unavailable("away"), times=3)
    bench.knows_it_is_away = True
    run(bench)

    assert bench.beaten_after_it.wait(SOON)
    for _ in range(3):
        assert bench.beats.acquire(timeout=SOON)
    bench.heartbeat.stop(SOON)

    assert caplog.records == []


def test_a_defect_that_keeps_a_worker_from_beating_is_said_with_its_traceback(
    run: Callable[[Bench], Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = run(Bench("beat", ValueError("a defect"), times=1))

    assert bench.beaten_after_it.wait(SOON)

    ((level, text),) = said(caplog, 1)
    assert level == "WARNING"
    assert text.startswith("no heartbeat got through, retrying: Traceback")
    assert "in _maybe_fail" in text
    assert "ValueError: a defect" in text


@pytest.mark.parametrize("error", [ValueError("a defect"), Unavailable("away"), DriverError("forbidden")])
def test_statistics_that_cannot_be_sent_stop_no_beat(run: Callable[[Bench], Bench], error: Exception) -> None:
    bench = Bench("record", error, times=10**9)
    run(bench)

    for _ in range(3):
        assert bench.beats.acquire(timeout=SOON)
    assert bench.failures_left < 10**9
    assert not bench.heartbeat._failing


def test_the_statistics_of_a_worker_that_was_fenced_are_sent(run: Callable[[Bench], Bench]) -> None:
    bench = Bench("beat", Fenced("w1"), times=10**9, lease=LONG)
    bench.recorder.count(JobsRetried, [SettledJob("a", Reply.OK)])
    run(bench)

    assert bench.fences.acquire(timeout=SOON)
    assert bench.recorded.acquire(timeout=SOON)


def test_that_the_loop_could_not_be_looked_at_is_said(
    run: Callable[[Bench], Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = run(Bench("look", ValueError("a defect"), times=1))

    assert bench.beaten_after_it.wait(SOON)

    assert said(caplog, 1) == [("WARNING", "could not check the event loop: ValueError('a defect')")]


def test_a_beat_has_the_facts_and_may_ask_what_is_held_and_the_cancels_that_it_heard_of_are_told() -> None:
    lease = lease_at(1, "1-1", 1, "a", {})
    told: list[tuple[Sequence[Lease], Mapping[str, str]]] = []
    cancels: list[Sequence[Lease]] = []
    beaten = threading.Event()

    class Holding(Bench):
        def held(self) -> Sequence[Lease]:
            return (lease,)

        def facts(self) -> Mapping[str, str]:
            return {"host": "here"}

        def beat(self, beat: Beat) -> Sequence[Beaten]:
            told.append((beat.held(), beat.facts))
            return [Renewed(beat.held())]

        def beaten(self, began: float, answer: Renewed) -> None:
            cancels.append(answer.cancelled)
            beaten.set()

    bench = Holding(lease=LONG)
    bench.heartbeat.start()

    assert beaten.wait(SOON)
    bench.heartbeat.stop(SOON)

    assert told == [((lease,), {"host": "here"})]
    assert cancels == [(lease,)]


@pytest.mark.slow
def test_a_beat_that_took_longer_than_its_turn_is_followed_by_the_next_at_once() -> None:
    """By the time that one arrives the lease may be over."""
    begun: list[float] = []
    thrice = threading.Event()

    class Slow(Bench):
        def beat(self, beat: Beat) -> Sequence[Beaten]:
            begun.append(time.monotonic())
            if len(begun) == 3:
                thrice.set()
            elif len(begun) < 3:
                time.sleep(1.2)
            return [Renewed()]

    bench = Slow(lease=3)  # a beat every second
    bench.heartbeat.start()

    assert thrice.wait(SOON)
    bench.heartbeat.stop(SOON)

    assert begun[2] - begun[0] < 2 * 1.2 + 1.5  # and not a second more after each


def test_a_server_that_is_away_ends_no_beat_of_those_that_turned_out_to_be_on_another_one() -> None:
    away, there = Bench("beat", Unavailable("refused"), times=9), Bench()
    there.server = "another server"
    together = Heartbeat([cast(Beats, away), cast(Beats, there)], LONG, int)
    together.start()
    try:
        assert there.beats.acquire(timeout=SOON)
        assert away.failures_left < 9
    finally:
        together.stop(SOON)
