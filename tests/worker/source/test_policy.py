"""How many jobs are claimed before a slot is free for them."""

from redisjobs.worker.source.policy import Prefetch


class Worker:
    """Claims that are answered while jobs end, by a clock of its own."""

    def __init__(self, most: int = 100) -> None:
        self.prefetch = Prefetch(most)
        self.now = self.ended = 0.0

    def work(self, rate: float, *, seconds: float = 3.0, took: float = 0.001, at_once: int = 1) -> int:
        """How many are claimed ahead at this rate of jobs a second, this many at the same time."""
        pause, until = at_once / rate, self.now + seconds
        while self.now < until:
            self.now += pause
            self.ended += at_once
            self.prefetch.answered(int(self.ended), self.now - took, self.now)
        return self.prefetch.jobs


def test_as_many_are_claimed_ahead_as_end_in_three_round_trips() -> None:
    assert Worker().work(rate=10_000, took=0.002) in (59, 60)
    assert Worker().work(rate=1_000, took=0.002) in (5, 6)


def test_no_more_are_claimed_ahead_than_begin_within_half_the_time_that_they_may_wait() -> None:
    assert Worker().work(rate=500, took=0.04) == 25


def test_none_is_claimed_ahead_where_jobs_take_long() -> None:
    assert Worker().work(rate=100, took=0.002) == 0


def test_no_more_are_claimed_ahead_than_there_are_slots() -> None:
    assert Worker(most=10).work(rate=50_000, took=0.01) == 10


def test_jobs_of_a_second_that_end_together_are_no_short_ones() -> None:
    worker = Worker()
    assert worker.work(rate=100, at_once=100, took=0.002, seconds=10) == 0


def test_long_jobs_after_short_ones_end_it_within_two_seconds() -> None:
    worker = Worker()
    assert worker.work(rate=5_000, took=0.002) > 10
    assert worker.work(rate=20, took=0.002, seconds=2) == 0


def test_it_is_learned_again_once_jobs_have_waited_too_long() -> None:
    worker = Worker()
    assert worker.work(rate=5_000, took=0.002) > 10
    worker.prefetch.forget()
    assert worker.prefetch.jobs == 0
    assert worker.work(rate=5_000, took=0.002, seconds=0.2) > 10


def test_nothing_is_claimed_ahead_before_a_rate_is_known() -> None:
    prefetch = Prefetch(100)
    prefetch.answered(0, sent_at=0.0, now=1.0)
    assert prefetch.jobs == 0
