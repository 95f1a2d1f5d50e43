import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import arguments, installed, measure
from benchmarks.measures import ROWS, TIMES, Amount, Figures, Row
from benchmarks.report import DASH, Run, Samples
from benchmarks.session import commands_in
from benchmarks.systems import PEER_NAMES, QUICK, SYSTEMS, Failed, System

MADE_UP: Samples = {
    "drain_1": {
        "redisjobs": [30_000, 31_000, 29_000],
        "tarsk-redis": [10_000, 11_000, 9_000],
        "taskiq-redis": [4_000, 4_100, 3_900],
        "floor": [60_000, 61_000, 59_000],
    },
    "worker_cpu": {"redisjobs": [30e-6], "tarsk-redis": [90e-6], "floor": [10e-6]},
    "push_async": {"redisjobs": [7_000], "taskiq-redis": [5_000], "floor": [8_000]},
    "push_sync": {"redisjobs": [6_000], "tarsk-redis": [9_000]},
    "late_p50": {"redisjobs": [0.001]},
}


def row(key: str) -> Row:
    return next(row for row in ROWS if row.key == key)


def a_run(
    *,
    versions: dict[str, str] | None = None,
    samples: Samples | None = None,
    failures: Sequence[list[str]] = (),
) -> Run:
    made = Run("2026-01-02T03:04:05+00:00", quick=False, rounds=3, machine="M, 2 cores", server="V 9")
    made.versions = {"redisjobs": "0.1.0"} if versions is None else versions
    made.samples = MADE_UP if samples is None else samples
    made.failures = list(failures)
    return made


def a_system(name: str, *packages: str) -> System:
    return System(name, "nobody", packages, name, "", lambda programs, processes, concurrency: [])


# What is compared


def test_our_median_is_held_against_the_best_peers_and_the_floor_is_no_peer() -> None:
    line = report.compare(MADE_UP, row("drain_1"))

    assert line.best == ("tarsk-redis", 10_000)
    assert line.ratio == 3
    assert line.holds is True


@pytest.mark.parametrize(
    ("key", "ours", "holds"),
    [
        ("drain_1", 24_000, False),  # must be 2.5 times the best peer's
        ("worker_cpu", 24e-6, True),  # at most 25 µs, whatever the others have
        ("worker_cpu", 26e-6, False),
        ("push_async", 6_400, True),  # 0.8 times the floor's
        ("push_async", 6_300, False),
        ("push_sync", 9_000, True),
        ("push_sync", 8_900, False),
    ],
)
def test_each_row_has_its_own_must(key: str, ours: float, holds: bool) -> None:
    samples = {key: {**MADE_UP[key], "redisjobs": [ours]}}

    assert report.compare(samples, row(key)).holds is holds


def test_where_no_peer_was_measured_there_is_no_ratio_and_nothing_to_hold() -> None:
    line = report.compare({"drain_1": {"redisjobs": [1.0]}}, row("drain_1"))

    assert (line.best, line.ratio, line.holds) == (None, None, None)


def test_the_rows_where_we_lose_are_told() -> None:
    lost = report.losses(MADE_UP)

    assert [line.partition(":")[0] for line in lost] == ["worker CPU a job", "push one by one, sync (floor"]
    assert "where tarsk-redis has 9,000" in lost[1]


# What is shown


def test_the_table_says_median_spread_ratio_and_whether_must_holds() -> None:
    text = report.comparison(MADE_UP)

    drain = next(line for line in text.splitlines() if "1 worker process" in line)
    cells = [cell.strip() for cell in drain.strip("|").split("|")]
    assert cells == [
        "drain, 1 worker process, jobs/s",
        f"30,000 (29,000{DASH}31,000)",
        "tarsk-redis 10,000",
        f"3.00 {TIMES}",
        f"60,000 (59,000{DASH}61,000)",
        f"≥ 2.5 {TIMES} the best",
        "yes",
    ]
    assert len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, DASH), (0.0, "0"), (0.0004, "0"), (0.8123, "0.812"), (14.26, "14.3"), (123456.0, "123,000")],
)
def test_a_number_has_three_figures(value: float | None, shown: str) -> None:
    assert report.number(value) == shown


def test_the_page_has_date_versions_machine_losses_and_what_was_not_measured() -> None:
    page = report.page(a_run(failures=[["arq", "drain", "its worker died"]]))

    for said in (
        "2026-01-02",
        "M, 2 cores",
        "V 9",
        "redisjobs 0.1.0",
        "- worker CPU a job: 30 µs",
        "its worker died",
    ):
        assert said in page


def test_the_page_keeps_what_growth_and_fleet_said_apart() -> None:
    run = a_run()
    run.beside["fleet"] = "2026-01-01, 200 workers"

    page = report.page(run)

    assert page.endswith("## A fleet, simulated\n\n2026-01-01, 200 workers\n")
    assert "How the cost grows" not in page


def test_the_drawing_has_a_bar_for_each_system_a_whisker_where_there_is_a_spread_and_both_colour_schemes() -> None:
    drawn = report.drawing({key: MADE_UP[key] for key in ("drain_1", "worker_cpu")})

    root = ElementTree.fromstring(drawn)
    kinds = [element.get("class", "") for element in root.iter()]
    assert len([kind for kind in kinds if kind.startswith("bar")]) == 4 + 3
    assert kinds.count("bar us") == kinds.count("bar floor") == 2
    assert kinds.count("whisker") == 4
    assert "prefers-color-scheme: dark" in drawn


def test_a_longer_bar_is_a_larger_figure() -> None:
    drawn = report.drawing({"drain_1": {"redisjobs": [300.0], "arq": [100.0]}})

    ours, arqs = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn))
    assert ours == pytest.approx(3 * arqs, rel=0.01)


def test_a_result_read_back_from_json_is_the_same_run() -> None:
    run = a_run(failures=[["arq", "drain", "why"]])

    assert Run.from_json(json.loads(json.dumps(run.as_json()))) == run


# What is asked for


def test_quick_is_four_systems_and_all_is_all() -> None:
    assert [system.name for system in arguments(["--quick"]).systems] == list(QUICK)
    assert [system.name for system in arguments([]).systems] == list(SYSTEMS)


def test_chosen_peers_are_measured_beside_us_and_the_floor() -> None:
    options = arguments(["--peers", "arq, ardiq", "--only", "drain,push"])

    assert [system.name for system in options.systems] == ["redisjobs", "arq", "ardiq", "floor"]
    assert options.only == ["drain", "push"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--peers", "nobody"], "no such peer: nobody"),
        (["--only", "nothing"], "no such measure: nothing"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_what_there_is_not_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        arguments(words)

    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_versions_of_all_peers_are_pinned() -> None:
    for name in PEER_NAMES:
        assert all(re.search(r"==[\d.]+$", package) for package in SYSTEMS[name].packages), name


# What goes wrong


def test_a_peer_that_does_not_install_is_reported_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.systems.VENVS", tmp_path)
    run, said = a_run(versions={}, samples={}), list[str]()

    there = installed([a_system("peer", "some==1")], run, str(tmp_path / "no-python"), said.append)

    assert there == []
    ((system, what, reason),) = run.failures
    assert (system, what) == ("peer", "install")
    assert "no-python" in reason
    assert said == [f"peer: skipped, {reason}"]


def test_a_peer_that_fails_a_measure_is_reported_once_and_the_others_are_measured() -> None:
    run, asked = a_run(samples={}), list[str]()

    def take(system: System, amount: Amount) -> Figures:
        asked.append(system.name)
        if system.name == "bad":
            raise Failed("its worker died")
        return {"drain_1": 1.0}

    measure([a_system("good"), a_system("bad")], {"drain": take}, run, Amount(), lambda text: None)

    assert run.samples == {"drain_1": {"good": [1.0, 1.0, 1.0]}}
    assert run.failures == [["bad", "drain", "its worker died"]]
    assert asked.count("bad") == 1


def test_each_round_goes_round_all_systems_and_begins_with_another() -> None:
    asked = list[str]()

    def take(system: System, amount: Amount) -> Figures:
        asked.append(system.name)
        return {}

    measure([a_system(name) for name in "abc"], {"drain": take}, a_run(samples={}), Amount(), lambda text: None)

    assert "".join(asked) == "abcbcacab"


def test_commands_of_clients_are_told_from_those_of_scripts() -> None:
    monitored = (
        b"+OK\r\n"
        b'+1.5 [0 127.0.0.1:5] "EVALSHA" "abc" "1"\r\n'
        b'+1.5 [0 lua] "XPENDING" "k"\r\n'
        b'+1.6 [0 127.0.0.1:5] "evalsha" "abc" "x \\" [0 lua]"\r\n'
        b'+1.7 [0 unix:/tmp/s] "PING"\r\n'
    )

    assert commands_in(monitored) == {"evalsha abc": 2, "ping": 1}
