"""The heartbeat's thread outlives whatever goes wrong in it: a thread that ended would lose every job."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from redisjobs.driver import Lease, Word
from redisjobs.errors import Unavailable
from redisjobs.heartbeat import Heartbeat

SOON = 5.0  # seconds: many times the lease


class Bench:
    """A heartbeat, of which one part fails as often as it is told to."""

    def __init__(self, failing: str, error: Exception, times: int) -> None:
        self.failures_left = times
        self.renewed_after_it = threading.Event()
        self._failing, self._error = failing, error
        self.beat = Heartbeat(self, 0.3, self.held, self.facts, self.answered, self.look)

    def _maybe_fail(self, part: str) -> None:
        if part == self._failing and self.failures_left:
            self.failures_left -= 1
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

    def look(self) -> None:
        self._maybe_fail("look")

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
