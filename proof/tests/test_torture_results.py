"""What the torture finds of results and follow-ups: one that is missing or another's, one too few or too many."""

import json
from dataclasses import replace
from typing import Any

import pytest
from test_torture import Lines, cut, done, ended, killed, pushed, retried, settled, started

from redisjobs.model.changes import Ending, JobStatus
from redisjobs_proof.torture.checks.checker import check
from redisjobs_proof.torture.checks.verdict import Verdict
from redisjobs_proof.torture.fleet.final import FinalState
from redisjobs_proof.torture.fleet.store import Letter

# A run as it might be written down: of each job that was pushed its result was to be kept


def kept(job: str, at: float, name: str = "Work") -> Lines:
    push, told = pushed(job, at, name)
    return [push | {"kept": True}, told]


def result_of(job: str, worker: int, deliveries: int = 1) -> JobStatus:
    said = {"job": job, "worker": f"w{worker}", "attempt": 1, "deliveries": deliveries}
    return JobStatus(Ending.COMPLETED, value=json.dumps(said).encode())


def answered(job: str, at: float, status: JobStatus | None = None, error: str = "", **more: Any) -> dict[str, Any]:
    result = json.loads(status.value) if status else None
    return {
        "what": "answered",
        "job": job,
        "db": 0,
        "at": at,
        "result": result,
        "error": error,
        "over": False,
    } | more


def watched(job: str, at: float, **more: Any) -> dict[str, Any]:
    return {"what": "watched", "job": job, "db": 0, "at": at, "reports": 3, "strange": "", "ended": True} | more


class Kept:
    """A run in which each of some jobs ended in another way: in order until a test spoils it."""

    def __init__(self) -> None:
        self.lines: Lines = [
            *(kept("a", 100) + kept("b", 100) + kept("c", 100, "Hopeless") + kept("d", 100)),
            *done("a", 1, 101),
            answered("a", 101.2, result_of("a", 1)),
            started("b", 1, 102),
            killed(1, 102.5),
            *done("b", 2, 104.5, deliveries=2),
            started("c", 2, 105),
            ended("c", 2, 105.1, result="raised"),
            settled("c", 2, 105.2, settlement="DeadLetter"),
            {"what": "cancel", "job": "d", "db": 0, "at": 106},
            {"what": "cancelled", "job": "d", "db": 0, "at": 106.1, "reply": "CANCELLED"},
        ]
        self.final = FinalState(
            [Letter("c", "failed")],
            located={"c": "dead 1-0"},
            totals={"pushed": 4, "completed": 2, "dead": 1, "cancelled": 1},
            statuses={
                "a": result_of("a", 1),
                "b": result_of("b", 2, 2),
                "c": JobStatus(Ending.DEAD),
                "d": JobStatus(Ending.CANCELLED),
            },
        )

    def verdict(self) -> Verdict:
        return check(self.lines, [self.final])


@pytest.fixture
def run() -> Kept:
    return Kept()


def test_a_run_passes_in_which_everybody_is_told_what_became_of_each_job(run: Kept) -> None:
    verdict = run.verdict()

    assert verdict.passed, verdict
    assert (verdict.results, verdict.answers) == (4, {"result": 1})


@pytest.mark.parametrize("job", ["a", "b", "c", "d"])
@pytest.mark.parametrize("ending", [Ending.NOT_FOUND, Ending.EXPIRED, Ending.NOT_KEPT, Ending.PENDING])
def test_a_result_that_is_missing_is_found(run: Kept, job: str, ending: Ending) -> None:
    run.lines = [line for line in run.lines if line["what"] != "answered"]
    run.final.statuses[job] = JobStatus(ending)

    (wrong,) = run.verdict().wrong

    assert f"answer for the result of {job}" in wrong
    assert f"is {ending}" in wrong


@pytest.mark.parametrize(
    ("job", "ending"), [("a", Ending.DEAD), ("b", Ending.CANCELLED), ("c", Ending.CANCELLED), ("d", Ending.DEAD)]
)
def test_an_end_that_is_another_than_the_jobs_own_is_found(run: Kept, job: str, ending: Ending) -> None:
    run.lines = [line for line in run.lines if line["what"] != "answered"]
    run.final.statuses[job] = JobStatus(ending)

    assert len(run.verdict().wrong) == 1


@pytest.mark.parametrize("job", ["c", "d"])
def test_a_result_of_a_job_that_did_not_end_as_done_is_found(run: Kept, job: str) -> None:
    run.final.statuses[job] = result_of(job, 2)

    assert "is COMPLETED" in run.verdict().wrong[0]


def test_a_result_of_another_job_is_found(run: Kept) -> None:
    run.final.statuses["b"] = result_of("a", 1)

    assert "the result of b (Work) is {'job': 'a'" in run.verdict().wrong[0]


def test_a_result_of_a_run_that_never_ended_is_found(run: Kept) -> None:
    run.final.statuses["b"] = result_of("b", 1)

    assert "is that of a run which never ended: w1" in run.verdict().wrong[0]


def test_a_result_of_a_run_that_was_refused_is_found(run: Kept) -> None:
    run.lines += [ended("b", 1, 105), settled("b", 1, 105.1, reply="LEASE_LOST")]
    run.lines.append({"what": "fenced", "worker": "w1", "db": 0, "at": 104.4})
    assert run.verdict().passed

    run.final.statuses["b"] = result_of("b", 1)

    assert "is that of a run which was refused: w1" in run.verdict().wrong[0]


def test_a_result_of_a_run_that_no_one_knows_to_be_refused_is_found_where_another_one_ended_the_job(
    run: Kept,
) -> None:
    run.lines.append(ended("b", 1, 102.4))
    run.final.statuses["b"] = result_of("b", 1)

    assert "and another one ended it" in run.verdict().wrong[0]


def test_a_result_may_be_that_of_a_run_whose_answer_no_one_heard(run: Kept) -> None:
    run.lines += [*kept("e", 102), started("e", 1, 102), ended("e", 1, 102.4)]
    run.final.totals |= {"pushed": 5, "completed": 3}
    run.final.statuses["e"] = result_of("e", 1)

    assert run.verdict().passed


def test_of_a_push_that_no_one_was_told_of_nothing_may_be_known(run: Kept) -> None:
    run.lines += kept("e", 102)[:1]
    run.final.statuses["e"] = JobStatus(Ending.NOT_FOUND)

    assert run.verdict().passed


# Those who wait


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (answered("b", 105, result_of("b", 2, 2)), ""),
        (answered("b", 105, result_of("a", 1)), "returned {'job': 'a'"),
        (answered("b", 105, result_of("b", 1)), "returned {'job': 'b'"),
        (answered("b", 105, error="JobFailed"), "raised JobFailed, and it is COMPLETED"),
        (answered("b", 105, error="ResultNotKept"), "raised ResultNotKept"),
        (answered("c", 106, error="JobFailed"), ""),
        (answered("c", 106, error="JobCancelled"), "raised JobCancelled, and it is DEAD"),
        (answered("c", 106, result_of("c", 2)), "and DEAD b'' is kept"),
        (answered("d", 107, error="JobCancelled"), ""),
    ],
)
def test_who_waits_for_a_job_is_told_what_is_kept_of_it(run: Kept, answer: dict[str, Any], wrong: str) -> None:
    run.lines.append(answer)

    found = run.verdict().wrong

    assert len(found) == bool(wrong)
    assert all(wrong in each for each in found)


@pytest.mark.parametrize("error", ["TimeoutError", "Unavailable"])
@pytest.mark.parametrize(
    ("at", "fault", "excused"),
    [
        (108, None, True),  # the job had only just ended
        (112, None, False),
        (112, cut(111, 113), True),
        (112, cut(103, 107), True),
        (112, cut(100, 102), False),
        (112, killed(1, 111), False),  # it keeps no client from the store
        (112, cut(111, 113) | {"db": 1}, False),
    ],
)
def test_who_waits_in_vain_for_a_job_that_has_ended_is_excused_by_what_was_in_his_way(
    run: Kept, error: str, at: float, fault: dict[str, Any] | None, excused: bool
) -> None:
    run.lines += [answered("b", at, error=error), *([fault] if fault else [])]

    assert run.verdict().passed is excused


def test_once_all_is_over_nothing_excuses_who_waits_in_vain(run: Kept) -> None:
    run.lines += [cut(106, 107), answered("b", 108, error="TimeoutError", over=True)]

    assert "when all faults were over" in run.verdict().wrong[0]


@pytest.mark.parametrize(
    ("watch", "wrong"),
    [
        (watched("b", 104.7), ""),
        (watched("b", 104.55), "ended 0.060 s before the job did"),
        (watched("b", 104.7, strange="a"), "reported on another job: a"),
        (watched("b", 112), "missed the job's end"),
        (watched("b", 112, ended=False), "missed the job's end"),
    ],
)
def test_who_watches_a_job_is_told_of_its_end_and_not_before(run: Kept, watch: dict[str, Any], wrong: str) -> None:
    run.lines.append(watch)

    found = run.verdict().wrong

    assert len(found) == bool(wrong)
    assert all(wrong in each for each in found)


@pytest.mark.parametrize(
    ("name", "starts", "excused"), [("Poison", 104.62, True), ("Poison", 105.9, False), ("Work", 104.62, False)]
)
def test_a_worker_that_its_next_job_kills_at_once_may_not_have_told_who_watches(
    run: Kept, name: str, starts: float, excused: bool
) -> None:
    run.lines = [line for line in run.lines if line.get("job") != "c"]  # the worker did no more
    run.lines += [*kept("c", 100, name), started("c", 2, starts, name=name), killed(2, starts + 0.1)]
    run.lines += [*done("c", 3, starts + 2, deliveries=2), watched("b", 112)]
    run.final = replace(run.final, letters=[], located={}, totals={"pushed": 4, "completed": 3, "cancelled": 1})
    run.final.statuses["c"] = result_of("c", 3, 2)

    assert ["missed the job's end" in each for each in run.verdict().wrong] == [True] * (not excused)


@pytest.mark.parametrize(
    ("status", "error", "wrong"),
    [
        (result_of("r", 1), "", "is that of a run which never ended: w1"),  # of the job that had the id before
        (result_of("r", 2), "", ""),
        (None, "TimeoutError", ""),
        (None, "ResultNotKept", "raised ResultNotKept, and it had ended as done"),
    ],
)
def test_of_jobs_that_had_an_id_after_one_another_each_has_its_own_result(
    run: Kept, status: JobStatus | None, error: str, wrong: str
) -> None:
    for mark, worker, at in (("first", 1, 102), ("second", 2, 106)):
        lines = [*pushed("r", at - 1), *done("r", worker, at)]
        run.lines += [line | {"mark": mark, "attempt": 1} for line in lines if line["what"] != "settled"]
        run.lines += [line for line in lines if line["what"] == "settled"]
    run.lines.append(answered("r", 107, status, error, mark="second"))
    run.final.totals |= {"pushed": 6, "completed": 4}

    found = run.verdict().wrong

    assert len(found) == bool(wrong)
    assert all(wrong in each for each in found)


# Follow-ups: of a job that is run twice; each run pushes others


def pushes(parent: str, child: str, worker: int, at: float, deliveries: int = 1, **more: Any) -> dict[str, Any]:
    lease = {"worker": f"w{worker}", "attempt": 1, "deliveries": deliveries, "pid": worker}
    facts = {"name": "Work", "kept": False, "delay": 0.0, "parent": parent}
    return {"what": "follow-up", "job": child, "db": 0, "at": at, **facts, **lease} | more


def told(worker: int, at: float, *jobs: tuple[str, bool]) -> dict[str, Any]:
    """What a worker tells of what its settlement has pushed."""
    named = [[job, "Work", added] for job, added in jobs]
    return {"what": "JobsPushed", "pid": worker, "db": 0, "at": at, "queue": "q", "jobs": named}


class Family:
    """A run of one parent: in order until a test spoils it."""

    def __init__(self) -> None:
        self.lines: Lines = [
            *pushed("p", 100, "Parent"),
            started("p", 1, 101, name="Parent"),
            pushes("p", "only once", 1, 101.1),
            pushes("p", "both", 1, 101.1),
            killed(1, 101.5),
            started("p", 2, 104, 2, name="Parent"),
            pushes("p", "both", 2, 104.05, 2),
            pushes("p", "second", 2, 104.05, 2, delay=1.0),
            ended("p", 2, 104.1, 2),
            settled("p", 2, 104.2, 2),
            told(2, 104.2, ("both", True), ("second", True)),
            *done("both", 2, 104.5),
            *done("second", 2, 105.5),
        ]
        self.final = FinalState(totals={"pushed": 3, "completed": 3})

    def without(self, *whats: str, job: str) -> None:
        self.lines = [line for line in self.lines if line["what"] not in whats or line["job"] != job]

    def verdict(self) -> Verdict:
        return check(self.lines, [self.final])


@pytest.fixture
def family() -> Family:
    return Family()


def test_a_run_passes_in_which_each_follow_up_of_the_run_that_ended_its_parent_has_ended(family: Family) -> None:
    verdict = family.verdict()

    assert verdict.passed, verdict
    assert (verdict.follow_ups, verdict.done) == (2, 3)


@pytest.mark.parametrize("job", ["both", "second"])
def test_a_follow_up_that_is_lost_is_found(family: Family, job: str) -> None:
    family.without("start", "end", "settled", job=job)
    family.final.totals |= {"completed": 2}

    assert family.verdict().lost == [job]


def test_a_follow_up_that_is_created_twice_is_found(family: Family) -> None:
    family.lines += [told(2, 104.6, ("both", True)), *done("both", 2, 104.8)]
    family.final.totals |= {"pushed": 4, "completed": 4}

    wrong = family.verdict().wrong

    assert "both (Work) was created 2 times" in wrong
    assert any("both (Work) was started again, and no fault had hit it" in each for each in wrong)


def test_a_follow_up_of_a_run_that_did_not_end_its_parent_is_found(family: Family) -> None:
    family.lines += done("only once", 2, 105)
    family.final.totals |= {"pushed": 4, "completed": 4}

    (wrong,) = family.verdict().wrong

    assert wrong.startswith("only once was created, and its parent p did not push it")


@pytest.mark.parametrize("end", ["dead", "cancelled", "none"])
def test_a_follow_up_of_a_parent_that_never_ended_as_done_is_found(family: Family, end: str) -> None:
    family.without("end", "settled", job="p")
    if end == "dead":
        family.lines += [ended("p", 2, 104.1, 2, "raised"), settled("p", 2, 104.2, 2, settlement="DeadLetter")]
        family.final.letters = [Letter("p", "failed", failed_at=104.2)]
        family.final.located = {"p": "dead 1-0"}
    if end == "cancelled":
        family.lines += [
            {"what": "cancel", "job": "p", "db": 0, "at": 104},
            ended("p", 2, 104.1, 2, "cut"),
            settled("p", 2, 104.2, 2) | {"cancelled": True},
        ]

    wrong = family.verdict().wrong

    assert (
        sum("was created, and its parent p did not push it: which never ended as done" in each for each in wrong)
        == 2
    )


def test_a_follow_up_that_its_parent_was_told_to_be_there_already_is_found(family: Family) -> None:
    family.lines[-7] = told(2, 104.2, ("both", False), ("second", True))

    assert family.verdict().wrong == ["both (Work) was there already, by the answer to its parent"]


def test_where_no_one_heard_which_run_ended_a_parent_either_may_have(family: Family) -> None:
    family.without("settled", job="p")
    family.lines = [line for line in family.lines if line["what"] != "JobsPushed"]
    family.lines.append(ended("p", 1, 101.4))
    family.without("start", "end", "settled", job="second")
    assert len(family.verdict().lost) == 1  # each run pushed one that is not there

    family.lines += done("only once", 1, 101.45)

    assert family.verdict().passed


def test_a_run_that_failed_creates_nothing_and_the_one_that_did_not_all_it_pushed(family: Family) -> None:
    family.lines += [
        *pushed("f", 100, "Parent"),
        started("f", 2, 106, name="Parent"),
        pushes("f", "of the first", 2, 106.1),
        ended("f", 2, 106.2, result="raised"),
        retried(2, 106.3) | {"job": "f"},
        *(
            line | {"attempt": 2}
            for line in (
                started("f", 2, 107, name="Parent"),
                pushes("f", "of the second", 2, 107.1),
                ended("f", 2, 107.2),
                settled("f", 2, 107.3),
            )
        ),
        *done("of the second", 2, 107.5),
    ]
    family.final.totals = {"pushed": 5, "completed": 5}
    assert family.verdict().passed, family.verdict()

    family.lines += done("of the first", 2, 108)

    wrong = " ".join(family.verdict().wrong)
    assert "of the first was created, and its parent f did not push it" in wrong


def test_a_delayed_follow_up_is_not_started_before_its_time(family: Family) -> None:
    for line in family.lines:
        if line.get("job") == "second" and line["what"] != "follow-up":
            line["at"] -= 0.6

    (wrong,) = family.verdict().wrong

    assert "second (Work) was started" in wrong
    assert "before it was due" in wrong
