"""Histograms, percentiles and what an operator sees of statistics, without a store."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisjobs.model.recording import BOUNDS, Histogram, IntervalFound, IntervalsFound, added
from redisjobs.model.statistics import Overview, Percentiles, QueueSample, Span, intervals_of, percentiles, total

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
MINUTE = int(NOON.timestamp()) // 60


def span(*found: IntervalFound, seconds: float = 30, count: int = 3, minutes: int = 1) -> Span:
    """The last intervals, at some seconds after noon."""
    return Span(minutes, count, [IntervalsFound(int((NOON.timestamp() + seconds) * 1000), found)])


def test_the_buckets_go_by_one_two_and_five_from_a_millisecond_to_more_than_a_day() -> None:
    assert BOUNDS[:7] == (1, 2, 5, 10, 20, 50, 100)
    assert len(BOUNDS) + 1 == 26
    assert BOUNDS[-1] == 100_000_000 > 86_400_000


@given(st.lists(st.floats(-5, 1e12), min_size=1))
def test_each_value_falls_into_the_first_bucket_that_it_does_not_exceed(values: list[float]) -> None:
    together, one_by_one = Histogram(), Histogram()
    together.add_all(values)
    for value in values:
        one_by_one.add_all([value])

    assert together.buckets == one_by_one.buckets
    assert sum(together.buckets) == len(values)
    for number, bound in enumerate(BOUNDS):
        assert sum(together.buckets[: number + 1]) == sum(value <= bound for value in values)


def test_sums_are_named_by_their_upper_bounds() -> None:
    seconds = Histogram(1000)
    seconds.add_all([0.0001, 0.05, 0.0501, 1e9])
    assert seconds.sums("run") == {"run1": 1, "run50": 1, "run100": 1, "runmore": 1}


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=200))
def test_a_percentile_is_in_the_bucket_of_the_value_that_it_stands_for(values: list[int]) -> None:
    histogram = Histogram()
    histogram.add_all(values)
    found = percentiles(histogram.sums("wait"), "wait")

    assert found is not None
    assert found.p50 <= found.p95 <= found.p99
    for share, seconds in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        exact = sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)]
        below = max((bound for bound in (0, *BOUNDS) if bound < exact), default=0)
        above = next(bound for bound in BOUNDS if bound >= exact)
        assert below <= seconds * 1000 <= above


def test_percentiles_are_interpolated_and_missing_where_nothing_ran() -> None:
    assert percentiles({"run20": 100}, "run") == Percentiles(0.015, 0.0195, 0.0199)
    assert percentiles({"runmore": 1}, "run") == Percentiles(100_000, 100_000, 100_000)
    assert percentiles({"run20": 100}, "wait") is None


def test_sums_are_added_by_name() -> None:
    assert added([{"a": 1, "b": 2}, {}, {"b": 3}]) == {"a": 1, "b": 5}


def test_intervals_without_data_are_there_with_zeros() -> None:
    sample = {"ready": 2, "running": 1, "delayed": 3, "dead": 4, "oldest_ms": 1500, "pushed": 90, "workers": 5}
    intervals = span(IntervalFound(MINUTE - 1, {"completed": 120, "dead": 1, "wait5": 120}, sample)).intervals()

    assert [each.start for each in intervals] == [NOON + timedelta(minutes=minute) for minute in (-2, -1, 0)]
    assert [each.completed for each in intervals] == [0, 120, 0]
    assert [each.throughput for each in intervals] == [0, 2, 0]
    assert [each.seconds for each in intervals] == [60, 60, 30]
    assert [each.is_closed for each in intervals] == [True, True, False]
    assert [each.sample for each in intervals] == [None, QueueSample(2, 1, 3, 4, 1.5, 90, 5), None]
    assert (intervals[1].dead, intervals[1].retried, intervals[1].run) == (1, 0, None)
    assert intervals[1].wait == Percentiles(0.0035, 0.00485, 0.00497)
    both = total(intervals[1:])
    assert (both.completed, both.seconds, both.throughput) == (120, 90, 120 / 90)


def test_an_interval_that_has_just_begun_counts_as_a_second() -> None:
    (current,) = span(IntervalFound(MINUTE, {"completed": 5}), seconds=0.001, count=1).intervals()
    assert (current.seconds, current.throughput) == (1, 5)


def test_an_overview_has_names_and_causes_the_most_frequent_first() -> None:
    overview = Overview(
        span(
            IntervalFound(MINUTE - 2, names={"Pay": {"dead": 2}}, causes={"worker lost": 2}),
            IntervalFound(
                MINUTE, names={"Pay": {"dead": 1}, "Send": {"completed": 9, "run5": 9}}, causes={"0123456789ab": 1}
            ),
        )
    )

    send, pay = overview.names
    assert (send.name, send.series, send.dead_series, send.completed) == ("Send", [0, 0, 9], [0, 0, 0], 9)
    assert (pay.name, pay.series, pay.dead_series, pay.dead, pay.seconds) == ("Pay", [0, 0, 0], [2, 0, 1], 3, 150)
    assert send.run is not None
    causes = [(each.cause, each.count, each.series) for each in overview.causes]
    assert causes == [("worker lost", 2, [2, 0, 0]), ("0123456789ab", 1, [0, 0, 1])]


def test_what_is_older_than_the_intervals_is_dropped() -> None:
    before = {number: IntervalFound(number, {"completed": 1}) for number in range(MINUTE - 100, MINUTE)}
    later = Span(1, 3, [IntervalsFound(int(NOON.timestamp() * 1000), [])], before)
    assert [*later.found] == [MINUTE - 2, MINUTE - 1]


@pytest.mark.parametrize(
    ("last", "minutes", "count"),
    [
        (1, 1, 1),
        (3600, 1, 60),
        (timedelta(hours=8), 1, 480),
        (8 * 3600 + 1, 10, 49),
        (timedelta(days=3), 10, 432),
    ],
)
def test_up_to_8_hours_come_by_minute_and_up_to_3_days_by_ten(
    last: float | timedelta, minutes: int, count: int
) -> None:
    assert intervals_of(last) == (minutes, count)


@pytest.mark.parametrize("last", [0, -1, timedelta(days=3, seconds=1), "60", True])
def test_a_time_that_statistics_do_not_reach_is_refused(last: float) -> None:
    with pytest.raises(ValueError, match=r"^last="):
        intervals_of(last)
