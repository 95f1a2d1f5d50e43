"""The heartbeat's thread outlives whatever goes wrong in it: a thread that ended would lose every job."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from redisjobs.driver import Lease, Word
from redisjobs.errors import Unavailable
from redisjobs.heartbeat import Heartbeat

SOON = 5.0  # seconds: many times the lease
LONG = 3600.0  # seconds of a lease, a third of which no test waits for


class Bench:
    """A heartbeat, of which one part fails as often as it is told to."""

    def __init__(
        self, failing: str = "", error: Exception | None = None, times: int = 0, *, lease: float = 0.3
    ) -> None:
        self.failures_left = times
        self.renewed_after_it = threading.Event()
        self.renewals = threading.Semaphore(0)  # one for each that was answered
        self.looks = threading.Semaphore(0)
        self.closed = False
        self._failing, self._error = failing, error
        self.beat = Heartbeat(self, lease, self.held, self.facts, self.answered, self.look)

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

    def renew(self, leases: Sequence[Lease], facts: Mapping[str, str]) -> list[Word]:
        self._maybe_fail("renew")
        return []

    def answered(self, leases: Sequence[Lease], words: Sequence[Word]) -> None:
        self._maybe_fail("answered")
        if not self.failures_left:
            self.renewed_after_it.set()
        self.renewals.release()

    def look(self) -> None:
        self._maybe_fail("look")
        self.looks.release()

    def hand_over(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run() -> Iterator[Callable[[Bench], Bench]]:
    benches: list[Bench] = []

    def start(bench: Bench) -> Bench:
        benches.append(bench)
        bench.beat.start()
        return bench

    yield start
    for bench in benches:
        bench.beat.stop(SOON)
        assert bench.closed


@pytest.mark.parametrize("error", [ValueError("a defect"), Unavailable("away"), MemoryError(), RecursionError()])
@pytest.mark.parametrize("failing", ["held", "facts", "renew", "answered", "look"])
def test_it_renews_again_whatever_failed(run: Callable[[Bench], Bench], failing: str, error: Exception) -> None:
    bench = run(Bench(failing, error, times=2))

    assert bench.renewed_after_it.wait(SOON)
    assert bench.failures_left == 0
    assert not bench.beat.broken


def test_it_renews_again_when_there_is_no_thread_left_to_say_what_failed(
    run: Callable[[Bench], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    class None_(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    bench = Bench("renew", ValueError("a defect"), times=2)
    monkeypatch.setattr("redisjobs.aside.threading.Thread", None_)
    threads = [bench.beat._thread]

    run(bench)

    assert bench.renewed_after_it.wait(SOON)
    assert threads[0].is_alive()


def test_while_renewals_fail_no_lease_counts_as_renewed(run: Callable[[Bench], Bench]) -> None:
    bench = Bench("renew", Unavailable("away"), times=10**9)
    renewed = run(bench).beat.renewed

    assert not bench.renewed_after_it.wait(0.5)

    assert bench.beat.renewed == renewed
    bench.failures_left = 0
    assert bench.renewed_after_it.wait(SOON)
    bench.beat.stop(SOON)
    assert bench.beat.renewed > renewed
    assert bench.beat.steady_since > renewed  # for longer than a lease nobody renewed
    assert not bench.beat.broken


def test_leases_are_renewed_again_and_again_before_they_run_out(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench())
    began = time.monotonic()

    for _ in range(12):  # of which a third of a lease is between each and the next
        assert bench.renewals.acquire(timeout=SOON)

    assert time.monotonic() - began < SOON
    assert time.monotonic() - bench.beat.renewed < SOON


def test_the_first_renewal_is_at_once_and_the_next_not_before_its_time(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))

    assert bench.renewals.acquire(timeout=SOON)
    assert not bench.renewals.acquire(timeout=0.3)


def test_a_renewal_that_is_hurried_is_made_at_once_and_once(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))
    assert bench.renewals.acquire(timeout=SOON)

    for _ in range(2):
        bench.beat.hurry()

        assert bench.renewals.acquire(timeout=SOON)
        assert not bench.renewals.acquire(timeout=0.3)


def test_a_renewal_that_failed_is_tried_again_soon_however_long_the_lease(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench("renew", Unavailable("away"), times=1, lease=LONG))

    assert bench.renewals.acquire(timeout=SOON)
    assert not bench.renewals.acquire(timeout=0.3)


def test_the_loop_is_looked_at_again_and_again_however_long_the_lease(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))

    for _ in range(2):
        assert bench.looks.acquire(timeout=SOON)
    assert bench.renewals.acquire(timeout=0)
    assert not bench.renewals.acquire(timeout=0)  # a look renews nothing


def test_a_heartbeat_that_has_just_begun_counts_as_steady_for_two_thirds_of_a_lease(
    run: Callable[[Bench], Bench],
) -> None:
    """So what ran out is taken over once others that could not renew had a third of a lease for it."""
    bench = Bench(lease=LONG)
    built = time.monotonic()

    run(bench)
    assert bench.renewals.acquire(timeout=SOON)
    bench.beat.stop(SOON)

    assert built <= bench.beat.renewed <= time.monotonic()
    assert bench.beat.renewed - SOON <= bench.beat.steady_since + LONG * 2 / 3 <= bench.beat.renewed


def test_a_stopped_heartbeat_renews_no_more_and_closes_its_connection(run: Callable[[Bench], Bench]) -> None:
    bench = run(Bench(lease=LONG))
    assert bench.renewals.acquire(timeout=SOON)
    began = time.monotonic()

    bench.beat.stop(SOON)

    assert time.monotonic() - began < SOON
    assert bench.closed
    assert not bench.renewals.acquire(timeout=0)
    assert not bench.beat.broken


def test_a_heartbeat_that_hangs_in_a_renewal_is_waited_for_no_longer_than_asked_nor_by_the_process() -> None:
    asked, answer = threading.Event(), threading.Event()

    class Hanging(Bench):
        def renew(self, leases: Sequence[Lease], facts: Mapping[str, str]) -> list[Word]:
            asked.set()
            answer.wait(4 * SOON)
            return []

    bench = Hanging()
    bench.beat.start()
    assert asked.wait(SOON)
    (thread,) = (each for each in threading.enumerate() if each.name == "redisjobs heartbeat")
    began = time.monotonic()

    bench.beat.stop(0.1)

    assert time.monotonic() - began < SOON
    assert thread.daemon
    answer.set()
    thread.join(SOON)
    assert bench.closed


def said(caplog: pytest.LogCaptureFixture, lines: int) -> list[tuple[str, str]]:
    """What was logged, once it is so many lines: threads of their own say it."""
    until = time.monotonic() + SOON
    while len(caplog.records) < lines and time.monotonic() < until:
        time.sleep(0.01)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_that_renewals_fail_is_said_once_and_that_they_succeed_again(
    run: Callable[[Bench], Bench], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    bench = run(Bench("renew", Unavailable("away"), times=3))

    assert bench.renewed_after_it.wait(SOON)
    for _ in range(3):
        assert bench.renewals.acquire(timeout=SOON)

    assert said(caplog, 2) == [
        ("WARNING", "leases could not be renewed, trying on: away"),
        ("INFO", "leases are renewed again"),
    ]


def test_a_defect_that_keeps_leases_from_being_renewed_is_said_with_its_traceback(
    run: Callable[[Bench], Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = run(Bench("renew", ValueError("a defect"), times=1))

    assert bench.renewed_after_it.wait(SOON)

    ((level, text),) = said(caplog, 1)
    assert level == "WARNING"
    assert text.startswith("leases could not be renewed, trying on: Traceback")
    assert "in _maybe_fail" in text
    assert "ValueError: a defect" in text


def test_that_the_loop_could_not_be_looked_at_is_said(
    run: Callable[[Bench], Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = run(Bench("look", ValueError("a defect"), times=1))

    assert bench.renewed_after_it.wait(SOON)

    assert said(caplog, 1) == [("WARNING", "could not look after the event loop: ValueError('a defect')")]


def test_what_is_held_is_renewed_with_the_facts_and_the_words_for_it_are_told() -> None:
    lease = Lease(1, "1-1", 1, "a", {})
    told: list[tuple[Sequence[Lease], Mapping[str, str] | Sequence[Word]]] = []
    answered = threading.Event()

    class Holding(Bench):
        def held(self) -> Sequence[Lease]:
            return (lease,)

        def facts(self) -> Mapping[str, str]:
            return {"host": "here"}

        def renew(self, leases: Sequence[Lease], facts: Mapping[str, str]) -> list[Word]:
            told.append((leases, facts))
            return [Word.CANCELLING]

        def answered(self, leases: Sequence[Lease], words: Sequence[Word]) -> None:
            told.append((leases, words))
            answered.set()

    bench = Holding(lease=LONG)
    bench.beat.start()

    assert answered.wait(SOON)
    bench.beat.stop(SOON)

    assert told == [([lease], {"host": "here"}), ([lease], [Word.CANCELLING])]


def test_a_renewal_that_begins_three_quarters_of_a_lease_after_the_last_is_late() -> None:
    """By the time that it arrives the leases may have run out."""
    lease = 0.8
    renewals = threading.Semaphore(0)

    class Slow(Bench):
        def renew(self, leases: Sequence[Lease], facts: Mapping[str, str]) -> list[Word]:
            renewals.release()
            threading.Event().wait(lease * 3 / 4)
            return []

    bench = Slow(lease=lease)
    bench.beat.start()
    steady_since = bench.beat.steady_since

    for _ in range(2):
        assert renewals.acquire(timeout=SOON)
    bench.beat.stop(SOON)

    assert bench.beat.steady_since > steady_since
