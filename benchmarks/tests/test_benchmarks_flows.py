"""The benchmarks of steps, waits and children, and of a million suspended jobs: tiny runs, and what they say."""

from collections.abc import Sequence

import pytest

from benchmarks import flows, suspended
from benchmarks.flows import CASES, Cost
from benchmarks.report import DASH

PLAIN, ONE, FIVE = (f"{what}, 1 at once" for what in ("plain", "1 step", "5 steps"))


def made_up(calls: dict[str, Sequence[float]]) -> dict[str, list[Cost]]:
    """Two rounds of each case; `calls` of a job, where they are not 1."""
    return {
        case.name: [Cost(2.0, each * case.jobs, case.jobs * 5e-6, 1.0) for each in calls.get(case.name, (1, 1))]
        for case in CASES
    }


def cells_of(table: str, label: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {label} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def each(*figures: float) -> list[str]:
    """The cells of figures that were the same in both rounds."""
    return [f"{figure:g} ({figure:g}{DASH}{figure:g})" for figure in figures]


def test_what_a_job_costs_is_said_beside_a_plain_one() -> None:
    text = flows.text(made_up({ONE: (2, 2), "sleeps for 1 ms, 100 at once": (0.5, 0.5)}))

    assert cells_of(text, PLAIN)[:4] == [PLAIN, *each(500), DASH, *each(1)]
    assert cells_of(text, ONE)[1:5] == each(500, 1, 2, 5)
    assert cells_of(text, "sleeps for 1 ms, 100 at once")[2:3] == each(0.5)


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ({ONE: (2, 2), FIVE: (6, 6)}, []),
        ({ONE: (1.1, 1.2)}, []),
        ({FIVE: (7, 8)}, ["5 steps, 1 at once: a step costs 1.3 calls, and at most 1 is allowed"]),
    ],
    ids=["a call for each", "together", "too many"],
)
def test_steps_that_cost_more_than_a_call_each_are_said(
    calls: dict[str, Sequence[float]], said: list[str]
) -> None:
    assert flows.wrong(made_up(calls)) == said


def test_a_tiny_run_measures_every_case() -> None:
    said = list[str]()
    costs = flows.measure(1, 0.002, said.append)

    assert len(said) == len(CASES)
    assert all(min(cost.seconds, cost.calls, cost.worker) > 0 for (cost,) in costs.values())
    assert len(cells_of(flows.text(costs, 0.002), "a parent with 1,000 children")) == 6


def test_a_tiny_run_of_suspended_jobs_wakes_them_and_looks_at_them() -> None:
    said = list[str]()
    taken = suspended.take("redis", 20, 5, said.append)

    assert taken.times.keys() == taken.calls.keys()
    assert all(min(took) > 0 for took in taken.times.values())
    assert "20 suspended jobs" in said[1]
    assert cells_of(suspended.text(taken), "signal")[1] == "5"


def test_calls_that_took_too_long_are_said_and_wrong_is_what_takes_as_long_in_half_of_the_cases() -> None:
    taken = suspended.Taken("a store", 1_000, {"suspended": 800.0, "delayed": 500.0})
    for took, call in ((0.001, 0.5), (0.003, 25.0), (0.002, 0.4)):
        taken.note("signal", took, call)

    assert cells_of(suspended.text(taken), "signal") == ["signal", "3", "2", "3", "3", "0.5", "25"]
    assert suspended.text(taken).endswith("No call took over 20 ms.")
    assert suspended.wrong(taken) == []

    taken.slow = {"settle": [25.0, 30.0], "scan": [21.0]}
    assert "- 2 of `settle`, at most 30 ms\n- 1 of `scan`, at most 21 ms" in suspended.text(taken)
    taken.note("counts", 0.03, 30.0)
    assert suspended.wrong(taken) == ["a store, counts: a call takes 30 ms, and may take 20"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stores", "memory"], "no such store: memory"),
        (["--jobs", "10"], "--jobs at least four times --times"),
    ],
)
def test_what_can_not_be_measured_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        suspended.main(words)

    assert said in capsys.readouterr().err
