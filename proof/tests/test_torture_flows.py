"""What the torture finds of flows: steps that ran again, waits and signals that went wrong, wrong children."""

from typing import Any

import pytest
from test_torture import Lines, done, ended, killed, pushed, settled, started

from redisjobs_proof.torture.checks.checker import check
from redisjobs_proof.torture.checks.verdict import Verdict
from redisjobs_proof.torture.fleet.final import FinalState
from redisjobs_proof.torture.fleet.store import Letter

# Runs as they might be written down


def of_flow(what: str, job: str, at: float, worker: int = 1, deliveries: int = 1, **facts: Any) -> dict[str, Any]:
    lease = {"worker": f"w{worker}", "pid": worker, "attempt": 1, "deliveries": deliveries}
    return {"what": what, "job": job, "db": 0, "at": at, "key": 0, **lease, **facts}


def waits(job: str, at: float, wait: str = "time", seconds: float | None = 5.0, **facts: Any) -> dict[str, Any]:
    return of_flow("waits", job, at, wait=wait, seconds=seconds, **facts)


def passed(job: str, at: float, how: str = "slept", value: Any = None, **facts: Any) -> dict[str, Any]:
    return of_flow("passed", job, at, how=how, value=value, **facts)


def suspended(job: str, at: float, *begun: dict[str, Any], worker: int = 1, deliveries: int = 1) -> Lines:
    """A run that the wait `begun` ends, and that the store has suspended."""
    return [
        started(job, worker, at, deliveries, "Sleeper"),
        *(line | {"worker": f"w{worker}", "pid": worker, "deliveries": deliveries} for line in begun),
        ended(job, worker, at + 0.1, deliveries, "suspended"),
        settled(job, worker, at + 0.11, deliveries, settlement="Suspend"),
    ]


def woken(job: str, at: float, *more: dict[str, Any], worker: int = 1) -> Lines:
    """The last run of a job."""
    first, *rest = done(job, worker, at)
    line = [each | {"worker": f"w{worker}", "pid": worker} for each in more]
    return [first | {"name": "Sleeper"}, *line, *rest]


def verdict_of(lines: Lines, *letters: Letter, pushed: int = 1, cancelled: int = 0) -> Verdict:
    totals = {"pushed": pushed, "completed": pushed - cancelled - len(letters), "cancelled": cancelled}
    located = {letter.job: f"dead {letter.job}" for letter in letters}
    return check(lines, [FinalState([*letters], located=located, totals=totals | {"dead": len(letters)})])


SLEPT = [
    *pushed("a", 100, "Sleeper"),
    *suspended("a", 101, waits("a", 101.05)),
    *woken("a", 106.3, waits("a", 106.31), passed("a", 106.32)),
]


def test_a_job_that_sleeps_runs_once_more_and_needs_no_fault() -> None:
    verdict = verdict_of(SLEPT)

    assert verdict.passed, verdict
    assert (verdict.again, verdict.waits) == ({}, {"slept": 1})


def test_a_job_that_was_woken_twice_is_found() -> None:
    again = [started("a", 2, 106.2, name="Sleeper"), ended("a", 2, 106.25, result="cut")]
    (wrong,) = verdict_of([*SLEPT, *again]).wrong

    assert "a (Sleeper) was started again, and no fault had hit it" in wrong


def test_a_sleep_that_ended_too_early_is_found() -> None:
    early = [line | {"at": line["at"] - 2} if line["at"] > 106 else line for line in SLEPT]
    (wrong,) = verdict_of(early).wrong

    assert wrong == "wait 0 of a (Sleeper) ended 1.730 s too early"


def test_a_job_that_was_woken_long_after_its_sleep_is_found() -> None:
    others = [line for at in range(102, 140) for line in done(f"b{at}", 2, at)]
    others += [line for at in range(102, 140) for line in pushed(f"b{at}", at - 0.5)]
    late = [line | {"at": line["at"] + 30} if line["at"] > 106 else line for line in SLEPT]
    for line in late:
        line.update({"sent_at": line["at"]} if "sent_at" in line else {})
    (wrong,) = verdict_of([*late, *others], pushed=39).wrong

    assert "a (Sleeper) waited for 30.2 s" in wrong


def test_a_wait_that_suspends_its_job_again_is_found() -> None:
    again = suspended("a", 103, waits("a", 103.05))
    assert "wait 0 of a (Sleeper) has suspended it 2 times" in verdict_of([*SLEPT, *again]).wrong


def test_a_run_that_lost_its_lease_without_a_word_does_not_get_the_settlement_of_the_next_one() -> None:
    first, second = waits("a", 101.05), waits("a", 106.33, key=1)
    lost = suspended("a", 101, first)[:-1]
    before = [waits("a", 106.31), passed("a", 106.32), second]
    lines = [*pushed("a", 100, "Sleeper"), *lost, *suspended("a", 101.2, first | {"at": 101.25})]
    lines += [*suspended("a", 106.3, *before), *woken("a", 111.5)]

    assert not [each for each in verdict_of(lines).wrong if "has suspended it" in each]


@pytest.mark.parametrize("killer", [1, 2])
def test_a_run_after_a_suspension_without_a_reply_needs_a_fault(killer: int) -> None:
    unheard = [line for line in SLEPT if line["what"] != "settled" or line["at"] > 106]
    verdict = verdict_of([*unheard, killed(killer, 101.05)])

    assert verdict.again == {"worker killed" if killer == 1 else "none": 1}
    assert verdict.passed == (killer == 1)


@pytest.mark.parametrize(("sent_at", "stolen"), [(101.11, 0), (106.4, 1)])
def test_a_suspension_counts_deliveries_again_and_takes_the_job_from_earlier_runs(
    sent_at: float, stolen: int
) -> None:
    lines = [
        *pushed("a", 100, "Sleeper"),
        *suspended("a", 101, waits("a", 101.05), deliveries=2),
        *woken("a", 106.3, waits("a", 106.31), passed("a", 106.32), worker=2),
    ]
    if stolen:  # by a run that began before the suspension
        lines += [started("a", 3, 100.9, name="Sleeper"), settled("a", 3, sent_at)]

    assert len(verdict_of(lines).stolen) == stolen


def test_a_suspension_that_was_sent_again_counts_deliveries_again_too() -> None:
    lines = [
        *pushed("a", 100, "Sleeper"),
        *suspended("a", 101, waits("a", 101.05), deliveries=2),
        *woken("a", 106.3, waits("a", 106.31), passed("a", 106.32), worker=2),
    ]
    again = [line | {"resent": True} if line.get("settlement") == "Suspend" else line for line in lines]

    assert again != lines
    assert verdict_of(again).stolen == []


def test_a_worker_may_release_before_its_start_what_another_one_has_suspended() -> None:
    second = suspended("a", 106.3, waits("a", 106.35, key=1), worker=2)
    released = settled("a", 1, 112, settlement="Release")  # by the worker of the first run, which got it again
    last = woken("a", 113, waits("a", 113.01, key=1), passed("a", 113.02, key=1), worker=3)
    first = [*pushed("a", 100, "Sleeper"), *suspended("a", 101, waits("a", 101.05))]

    assert verdict_of([*first, *second, released, *last]).stolen == []


def test_a_job_that_is_left_suspended_is_found() -> None:
    left = {"what": "left suspended", "job": "a", "db": 0, "at": 110, "name": "Sleeper"}
    assert "a (Sleeper) is still suspended though all others have ended" in verdict_of([*SLEPT, left]).wrong


# Steps


def saved(at: float, value: str = "x", **facts: Any) -> dict[str, Any]:
    return of_flow("saved", "a", at, value=value, **facts)


def ran(at: float, value: str = "x", **facts: Any) -> dict[str, Any]:
    return of_flow("ran step", "a", at, value=value, **facts)


KILLED = [
    *pushed("a", 100, "Saving"),
    *(started("a", 1, 101, name="Saving"), ran(101.1), saved(101.2), killed(1, 101.5)),
    *(saved(104.6, worker=2, deliveries=2), *done("a", 2, 104.5, deliveries=2)),
]


def test_a_run_after_a_kill_finds_its_steps() -> None:
    verdict = verdict_of(KILLED)

    assert verdict.passed, verdict
    assert verdict.steps == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (ran(104.55, worker=2, deliveries=2), "step 0 of a (Saving) ran 3.350 s after it was saved"),
        (saved(104.65, "y", worker=2, deliveries=2), "step 0 of a (Saving) has returned 2 results"),
        (saved(104.65, "y", worker=2, deliveries=2), "step 0 of a (Saving) has a result that no run returned"),
    ],
)
def test_a_step_that_was_forgotten_is_found(line: dict[str, Any], found: str) -> None:
    assert found in verdict_of([*KILLED, line]).wrong


def test_a_run_that_has_lost_its_job_may_run_a_step_that_another_one_has_saved() -> None:
    lost = ran(105, "y")  # by the run of the killed process, if that was only cut off

    assert verdict_of([*KILLED, lost]).passed


# Signals


def signal(value: str, at: float, reply: str) -> Lines:
    sent = {"what": "signal", "job": "a", "db": 0, "at": at, "value": value}
    return [sent, sent | {"what": "signalled", "at": at + 0.01, "reply": reply}]


def waited(how: str, value: str | None, at: float = 106.32, **facts: Any) -> Lines:
    return [
        *pushed("a", 100, "Waiter"),
        *suspended("a", 101, waits("a", 101.05, "signal")),
        *woken("a", at - 0.02, waits("a", at - 0.01, "signal"), passed("a", at, how, value)),
    ]


@pytest.mark.parametrize("reply", ["OK", "KEPT", ""])
def test_a_signal_that_was_taken_may_have_any_answer_but_no(reply: str) -> None:
    assert verdict_of([*waited("signal", "x", 102.3), *signal("x", 102, reply)]).passed


@pytest.mark.parametrize(
    ("signals", "found"),
    [
        ([], "a (Waiter) has taken signal x, which was never sent"),
        (signal("x", 102, "EXISTS"), "a (Waiter) has taken signal x, whose answer was EXISTS"),
        (
            [*signal("x", 102, "OK"), passed("a", 102.31, "signal", "x", key=1)],
            "signal x was taken by 2 waits of a (Waiter)",
        ),
    ],
)
def test_a_signal_that_was_not_to_be_taken_is_found(signals: Lines, found: str) -> None:
    assert verdict_of([*waited("signal", "x", 102.3), *signals]).wrong == [found]


@pytest.mark.parametrize(
    ("reply", "at", "lost"), [("OK", 102, True), ("KEPT", 100.5, True), ("KEPT", 106.34, False), ("", 102, False)]
)
def test_a_signal_that_no_wait_took_is_found(reply: str, at: float, lost: bool) -> None:
    wrong = verdict_of([*waited("timeout", None), *signal("x", at, reply)]).wrong

    assert wrong == [f"signal x of a (Waiter) was taken by no wait, and its answer was {reply}"] * lost


# Children


def child(job: str, number: int, at: float, name: str = "Child", worker: int = 2) -> Lines:
    first, *rest = done(job, worker, at)
    return [first | {"parent": "a", "number": number, "name": name}, *rest]


def outcome(job: str, how: str = "done", worker: int = 2) -> dict[str, Any]:
    result = {"job": job, "worker": f"w{worker}", "attempt": 1, "deliveries": 1} if how == "done" else None
    return {"job": job, "how": how, "result": result}


def family(*outcomes: dict[str, Any], at: float = 103.0, many: int = 2) -> Lines:
    wait = waits("a", 101.05, "children", None, children=many)
    return [
        *pushed("a", 100, "Family"),
        *suspended("a", 101, wait),
        *woken("a", at, wait | {"at": at + 0.01}, passed("a", at + 0.02, "children", [*outcomes])),
    ]


CHILDREN = [*child("t-0", 0, 101.5), *child("t-1", 1, 102)]


def test_a_parent_goes_on_once_all_children_have_ended() -> None:
    verdict = verdict_of([*family(outcome("t-0"), outcome("t-1")), *CHILDREN], pushed=3)

    assert verdict.passed, verdict
    assert verdict.waits == {"children": 1}


def test_a_child_that_is_dead_and_one_that_was_cancelled_with_its_parents_consent_are_outcomes() -> None:
    bad = child("t-0", 0, 101.5, "BadChild")
    bad[1:] = [ended("t-0", 2, 101.6, result="raised"), settled("t-0", 2, 101.7, settlement="DeadLetter")]
    cancel = {"what": "cancel", "job": "t-1", "db": 0, "at": 102}
    lines = [*bad, cancel, cancel | {"what": "cancelled", "at": 102.1, "reply": "CANCELLED"}]
    lines += family(outcome("t-0", "JobFailed"), outcome("t-1", "JobCancelled"))

    verdict = verdict_of(lines, Letter("t-0", "failed"), pushed=3, cancelled=1)

    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            [*family(outcome("t-0"), outcome("t-1")), *CHILDREN, *child("s-1", 1, 102.3)],
            "child 1 of a was added 2 times",
        ),
        ([*family(outcome("t-0"), many=1), *child("t-0", 0, 104)], "was woken before its child t-0 had ended"),
        ([*family(outcome("t-0")), *CHILDREN], "a (Family) has 2 children, and saw the outcomes of 1"),
        (
            [*family(outcome("t-1"), outcome("t-0")), *CHILDREN],
            "a (Family) saw the outcome of t-1 as that of its child 0",
        ),
        (
            [*family(outcome("t-0"), outcome("t-1", "JobFailed")), *CHILDREN],
            "a (Family) saw that t-1 ended as JobFailed, None, and it did not",
        ),
        (
            [*family(outcome("t-0", worker=7), outcome("t-1")), *CHILDREN],
            "a (Family) saw that t-0 ended as done, ",
        ),
    ],
)
def test_a_parent_that_saw_what_was_not_so_is_found(lines: Lines, found: str) -> None:
    jobs = len({line["job"] for line in lines})
    assert any(found in wrong for wrong in verdict_of(lines, pushed=jobs).wrong)


def test_the_children_of_a_cancelled_parent_may_be_cancelled_though_it_never_saw_them() -> None:
    cancel = {"what": "cancel", "job": "a", "db": 0, "at": 102}
    lines = [
        *pushed("a", 100, "Family"),
        *suspended("a", 101, waits("a", 101.05, "children", None, children=3)),
        *(cancel, cancel | {"what": "cancelled", "at": 102.1, "reply": "CANCELLED"}),
        *child("t-0", 0, 101.5),
    ]

    verdict = verdict_of(lines, pushed=4, cancelled=3)

    assert verdict.passed, verdict
