"""Whom a worker may take for dead: what it knows of the server's clock, by its own. No server, no waiting."""

from collections.abc import Sequence

import pytest

from redisjobs.worker.source.clock import LeaseClock

LEASE = 9.0  # seconds; so a worker beats every 3 s
SILENCE = 0.6 * LEASE  # for so long the server may say nothing
AHEAD = 1_700_000_000.0  # seconds by which the server's clock is ahead of ours
TRIP = 0.01  # seconds, each way


def told(clock: LeaseClock, at: float, *, set_by: float = 0.0, pace: float = 1.0, there: float = TRIP) -> float:
    """Let the answer to a question arrive that was sent at a time of ours; what step it shows.

    Args:
        clock: The one that is tested.
        at: When it was sent.
        set_by: Seconds by which the server's clock was set.
        pace: Its seconds per second of ours.
        there: Seconds until the server says what time it is, half of the trip.
    """
    server_ms = ((at + there) * pace + AHEAD + set_by) * 1000
    return clock.record(server_ms, at, at + 2 * there)


def in_touch(clock: LeaseClock, since: float, until: float, every: float = 1.0, **how: float) -> list[float]:
    """Let it hear from the server again and again; the steps that showed."""
    steps, at = [], since
    while at <= until:
        steps.append(told(clock, at, **how))
        at += every
    return [step for step in steps if step]


def test_before_the_first_answer_nothing_is_known_and_no_worker_is_taken_for_dead() -> None:
    clock = LeaseClock()

    assert not clock.is_known
    assert not clock.is_trusted(LEASE, 1000.0)


def test_the_first_answer_shows_no_step_however_the_clocks_differ() -> None:
    clock = LeaseClock()

    assert told(clock, 100.0) == 0
    assert clock.is_known


@pytest.mark.parametrize(
    ("after", "is_trusted"),
    [(0.0, False), (LEASE / 2, False), (LEASE - 0.1, False), (LEASE + 0.1, True), (60, True)],
)
def test_no_worker_is_taken_for_dead_within_a_lease_of_ones_own_start(after: float, is_trusted: bool) -> None:
    clock = LeaseClock()
    in_touch(clock, 100.0, 100.0 + after)

    assert clock.is_trusted(LEASE, 100.0 + after + 2 * TRIP) is is_trusted


def test_it_is_the_lease_of_whom_is_judged_that_counts() -> None:
    clock = LeaseClock()
    in_touch(clock, 100.0, 110.0)

    assert [clock.is_trusted(lease, 110.1) for lease in (2.0, 9.0, 11.0, 60.0)] == [True, True, False, False]


@pytest.mark.parametrize("step", [3600.0, 5.0, 0.2, -0.2, -5.0, -3600.0])
def test_a_step_of_the_servers_clock_is_told_by_its_length_and_no_worker_is_taken_for_dead_for_a_lease(
    step: float,
) -> None:
    clock = LeaseClock()
    assert in_touch(clock, 100.0, 130.0) == []
    assert clock.is_trusted(LEASE, 130.5)

    seen = told(clock, 131.0, set_by=step)

    assert seen == pytest.approx(step, abs=0.1)
    assert not clock.is_trusted(LEASE, 131.1)
    assert in_touch(clock, 132.0, 139.0, set_by=step) == []
    assert not clock.is_trusted(LEASE, 139.5)
    in_touch(clock, 140.0, 141.0, set_by=step)
    assert clock.is_trusted(LEASE, 141.1)


@pytest.mark.parametrize("step", [0.01, -0.01])
def test_what_may_be_the_way_of_an_answer_is_no_step(step: float) -> None:
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)

    assert told(clock, 131.0, set_by=step) == 0
    assert clock.is_trusted(LEASE, 131.1)


@pytest.mark.parametrize("there", [0.0, 0.4, 2.0])
def test_an_answer_that_was_long_under_way_is_no_step(there: float) -> None:
    """The server may have said it at any time between the question and the answer."""
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)

    for said_after in (0.0, there, 2 * there):
        at = 131.0 + 5 * said_after
        assert clock.record((at + said_after + AHEAD) * 1000, at, at + 2 * there) == 0


@pytest.mark.parametrize("pace", [1.0005, 0.9995])
def test_a_clock_that_drifts_as_a_machines_does_makes_no_step(pace: float) -> None:
    clock = LeaseClock()

    assert in_touch(clock, 100.0, 1100.0, every=2.0, pace=pace) == []
    assert in_touch(clock, 1200.0, 4000.0, every=400.0, pace=pace) == []  # nor over long silences


@pytest.mark.parametrize("pace", [1.1, 0.9, 0.0])
def test_a_clock_that_runs_otherwise_than_ours_vouches_for_no_ones_death(pace: float) -> None:
    """Set step by step, or a server that stands still: each answer shows it."""
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)

    steps = [told(clock, at, set_by=(pace - 1) * (at - 130.0)) for at in (131.0, 132.0, 133.0, 134.0)]

    assert all(step * (pace - 1) > 0 for step in steps)
    assert not clock.is_trusted(LEASE, 134.1)


@pytest.mark.parametrize(
    ("silence", "is_trusted"),
    [(1.0, True), (SILENCE - 0.1, True), (SILENCE + 0.2, False), (LEASE, False), (600.0, False)],
)
def test_after_a_time_when_the_server_gave_no_answer_no_worker_is_taken_for_dead_for_a_lease(
    silence: float, is_trusted: bool
) -> None:
    """Others could not be heard either; and a frozen worker sees its own absence as a silence of the server's."""
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)
    back = 130.0 + silence

    assert told(clock, back) == 0  # no step
    assert clock.is_trusted(LEASE, back + 0.1) is is_trusted
    in_touch(clock, back + 1, back + LEASE - 1)
    assert clock.is_trusted(LEASE, back + LEASE - 0.9) is is_trusted
    in_touch(clock, back + LEASE, back + LEASE + 1)
    assert clock.is_trusted(LEASE, back + LEASE + 1.1)


def test_while_the_server_is_silent_no_worker_is_taken_for_dead() -> None:
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)

    assert clock.is_trusted(LEASE, 130.0 + SILENCE - 0.1)
    assert not clock.is_trusted(LEASE, 130.0 + SILENCE + 0.2)


def test_a_silence_too_short_for_one_lease_may_be_too_long_for_another() -> None:
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)
    in_touch(clock, 133.2, 133.7, every=0.1)

    assert clock.is_trusted(LEASE, 133.8)
    assert not clock.is_trusted(5.0, 133.8)


def test_an_older_answer_that_was_overtaken_changes_nothing() -> None:
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)
    now_ms = clock.now_ms(130.5)

    assert clock.record((129.0 + AHEAD + 3600) * 1000, 129.5, 130.4) == 0

    assert clock.now_ms(130.5) == now_ms
    assert clock.is_trusted(LEASE, 130.5)
    assert told(clock, 131.0) == 0


def test_what_time_it_is_there_is_known_between_answers() -> None:
    clock = LeaseClock()
    told(clock, 100.0)

    assert clock.now_ms(107.0) == pytest.approx((107.0 + AHEAD) * 1000, abs=2 * TRIP * 1000)
    told(clock, 108.0, set_by=-50.0)
    assert clock.now_ms(109.0) == pytest.approx((109.0 - 50.0 + AHEAD) * 1000, abs=2 * TRIP * 1000)


def test_how_long_it_is_until_a_time_of_the_servers_is_told_by_its_clock() -> None:
    clock = LeaseClock()
    told(clock, 100.0)

    assert clock.seconds_until(int((130.0 + AHEAD) * 1000), 105.0) == pytest.approx(25.0, abs=2 * TRIP)
    assert clock.seconds_until(int((101.0 + AHEAD) * 1000), 105.0) < 0


def ages(gaps: Sequence[float]) -> LeaseClock:
    clock, at = LeaseClock(), 100.0
    told(clock, at)
    for gap in gaps:
        at += gap
        told(clock, at)
    return clock


def test_of_the_past_only_the_longest_silences_are_remembered() -> None:
    """A busy worker has hundreds of answers a second: they don't fill its memory, nor make it forget the rest."""
    busy = ages([0.03] * 10_000)  # 300 s
    now = 400.0

    assert len(busy._gaps) < 10
    assert busy.is_trusted(60.0, now)
    assert busy.is_trusted(290.0, now)
    assert not busy.is_trusted(310.0, now)


def test_answers_that_come_thick_and_fast_need_no_memory() -> None:
    clock = ages([0.001] * 20_000)  # 20 s

    assert len(clock._gaps) == 0
    assert clock.is_trusted(LEASE, 120.0)
    assert not clock.is_trusted(21.0, 120.0)


def test_no_worker_is_taken_for_dead_within_a_lease_of_the_first_answer_of_another_server() -> None:
    clock = LeaseClock()
    in_touch(clock, 100.0, 130.0)
    assert clock.is_trusted(LEASE, 130.5)

    assert not clock.note_server("a", LEASE, 130.4)
    assert not clock.note_server("", LEASE, 130.5)
    assert clock.note_server("b", LEASE, 130.5)

    in_touch(clock, 131.0, 141.0)
    assert not clock.is_trusted(LEASE, 139.4)
    assert clock.is_trusted(LEASE, 139.6)


def test_servers_that_answer_in_turn_keep_no_worker_from_being_taken_for_dead() -> None:
    clock = LeaseClock()
    doubted = list[float]()
    for step in range(60):
        in_touch(clock, 100.0 + step / 2, 100.4 + step / 2)
        if clock.note_server("ab"[step % 2], LEASE, 100.4 + step / 2):
            doubted.append(100.4 + step / 2)

    assert doubted == [100.9, 101.4]
    assert clock.is_trusted(LEASE, 130.0)
    in_touch(clock, 130.0, 150.0)
    assert clock.note_server("c", LEASE, 150.0)  # the last change was longer ago than a lease
    assert not clock.is_trusted(LEASE, 150.1)
