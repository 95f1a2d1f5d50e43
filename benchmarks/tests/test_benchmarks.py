import importlib.metadata
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import redisjobs
from benchmarks import blocked, chain, featured, features, limits, report, streams, waiters
from benchmarks.__main__ import arguments, beside
from benchmarks.commits import checked_out, resolved
from benchmarks.measures import ROWS, TIMES, Amount, Figures, Row
from benchmarks.report import DASH, Run, Samples
from benchmarks.rounds import installed, measure
from benchmarks.schedules import commands_of, judge
from benchmarks.session import commands_in
from benchmarks.systems import PEER_NAMES, PEERS, QUICK, SYSTEMS, US, Failed, System
from redisjobs import Schedule
from redisjobs.events.recording import Line
from redisjobs.model.definition import Accuracy
from redisjobs.model.stored import ScheduleInfo
from redisjobs_proof.torture.fleet.final import FinalState
from redisjobs_proof.torture.fleet.store import Letter

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
    "latency_p50": {"redisjobs": [0.001], "tarsk-redis": [0.002], "floor": [0.001]},
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


PAST: Samples = {
    "drain_1": {
        "redisjobs": [30_000.0, 22_000.0, 29_000.0],
        "redisjobs@abc1234": [20_000.0, 20_000.0, 29_000.0],
        "tarsk-redis": [10_000.0, 10_000.0, 10_000.0],
    },
    "worker_cpu": {"redisjobs": [20e-6, 30e-6, 20e-6], "redisjobs@abc1234": [40e-6, 20e-6]},
    "left": {"redisjobs": [0.0], "redisjobs@abc1234": [0.0]},
    "push_bulk": {"redisjobs": [60_000.0]},
}


def cells_of(table: str, label: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def a_system(name: str, *packages: str) -> System:
    return System(name, "unknown", packages, name, "", lambda programs, processes, concurrency: [])


# What is compared


def test_our_median_is_held_against_the_best_peers_and_the_floor_is_no_peer() -> None:
    line = report.compare(MADE_UP, row("drain_1"))

    assert line.best == ("tarsk-redis", 10_000)
    assert line.ratio == 3
    assert line.holds is True


@pytest.mark.parametrize(
    ("key", "ours", "holds"),
    [
        ("drain_1", 11_000, False),  # must be 1.15 times the best peer's
        ("worker_cpu", 13e-6, True),  # at most 14 µs, whatever the others have
        ("worker_cpu", 15e-6, False),
        ("push_async", 4_250, True),  # 0.85 times the best peer's
        ("push_async", 4_200, False),
        ("latency_p50", 0.00105, True),  # 1.05 times the floor's
        ("latency_p50", 0.00106, False),
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


def test_the_page_says_what_each_peer_that_was_measured_gives_up() -> None:
    page = report.page(a_run(versions={"redisjobs": "0.1.0", "floor": "8.1.0", "cauli": "0.1.0"}))

    _, _, given_up = page.partition("## What each gives up")
    assert [line.partition("**: ")[0] for line in given_up.splitlines() if line.startswith("- ")] == ["- **cauli"]
    assert all(SYSTEMS[name].gives_up for name in PEER_NAMES)


def test_a_commit_is_no_peer() -> None:
    line = report.compare(PAST, row("drain_1"))

    assert line.best == ("tarsk-redis", 10_000)


def test_rounds_that_only_one_has_or_where_the_other_has_nothing_give_no_ratio() -> None:
    assert report.ratios([3.0, 1.0, 5.0], [2.0, 0.0]) == [1.5]


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
        f"≥ 1.15 {TIMES} the best",
        "yes",
    ]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_working_tree_is_shown_beside_a_commit_with_the_ratio_of_each_round() -> None:
    (text,) = report.pasts(PAST)

    assert cells_of(text, "drain, 1 worker process") == [
        "drain, 1 worker process, jobs/s",
        f"29,000 (22,000{DASH}30,000)",
        f"20,000 (20,000{DASH}29,000)",
        f"1.1 (1{DASH}1.5)",  # that of the medians would be 1.45
        "more",
        "2 / 0",  # and one where they are equal
    ]
    assert cells_of(text, "worker CPU")[3:] == [f"1 (0.5{DASH}1.5)", "less", "1 / 1"]
    assert cells_of(text, "left")[3:] == [DASH, "less", "0 / 0"]
    assert "bulk push" not in text


def test_a_commit_is_among_all_systems_and_on_the_page() -> None:
    page = report.page(a_run(versions={"redisjobs": "0.1.0", "redisjobs@abc1234": "0.1.0"}, samples=PAST))

    beside_past, _, every = page.partition("## Beside the past")[2].partition("## Every system")
    assert report.pasts(PAST) == [beside_past.strip()]
    assert cells_of(every, " ")[1:] == ["redisjobs", "redisjobs@abc1234", "tarsk-redis"]


def test_where_only_commits_are_measured_their_tables_are_all_that_is_printed() -> None:
    two = {key: {name: by[name] for name in by if "redisjobs" in name} for key, by in PAST.items()}

    assert report.tables(two) == report.pasts(two)
    assert report.tables(PAST) == [report.comparison(PAST), *report.pasts(PAST), report.everything(PAST)]


def test_without_a_commit_nothing_is_said_of_the_past() -> None:
    assert report.pasts(MADE_UP) == []
    assert "Beside the past" not in report.page(a_run())


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


def test_the_page_keeps_what_a_measure_said_apart() -> None:
    run = a_run()
    run.beside["limits"] = "2026-01-01, 4 workers"

    page = report.page(run)

    assert page.endswith("## Limits, under kills\n\n2026-01-01, 4 workers\n")
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
        (["--peers", "unknown"], "no such peer: unknown"),
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


# A commit beside the working tree


class Repository:
    """A small one of git's: its first commit has no benchmarks, its second one a program of its own for them."""

    program = Path("benchmarks") / "peers" / "redisjobs_jobs.py"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet")
        (folder / "code.py").write_text("one\n")
        self.first = self.commit()
        (folder / self.program).parent.mkdir(parents=True)
        (folder / self.program).write_text("its own\n")
        (folder / self.program).with_name("drive.py").write_text("an old one\n")
        self.second = self.commit()

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        who = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")
        self.git(*who, "commit", "--quiet", "--message", "-")
        return self.git("rev-parse", "HEAD")

    def state(self) -> tuple[str, str, str]:
        """What would show that a process was at work in it: files, worktrees, where HEAD was."""
        return self.git("status", "--porcelain"), self.git("worktree", "list"), self.git("reflog")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a hook of git's runs the tests
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "repository").mkdir()
    made = Repository(tmp_path / "repository")
    monkeypatch.setattr("benchmarks.commits.CHECKOUT", made.folder)
    return made


def test_a_revision_is_resolved_to_a_commit_with_its_short_hash_in_its_name(repository: Repository) -> None:
    repository.git("tag", "v1", "HEAD~1")

    first, second = arguments(["--against", "v1", "--against", "HEAD", "--only", "drain"]).against

    assert (first.hash, second.hash) == (repository.first, repository.second)
    assert re.fullmatch(r"redisjobs@[0-9a-f]{4,}", first.name)
    assert repository.first.startswith(first.short)


def test_a_commit_that_is_named_twice_is_one_system(repository: Repository) -> None:
    assert [commit.hash for commit in resolved(["HEAD", repository.second])] == [repository.second]


@pytest.mark.parametrize("revision", ["nothing", "HEAD~7", "-x", "HEAD:code.py", ""])
def test_a_revision_that_is_no_commit_is_refused_with_its_name_and_what_to_give(
    repository: Repository, revision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        arguments([f"--against={revision}"])

    assert refused.value.code == 2
    assert f"no such commit: {revision}; --against takes a hash, a branch, a tag" in capsys.readouterr().err


def test_where_there_is_no_repository_git_has_its_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr("benchmarks.commits.CHECKOUT", tmp_path)

    with pytest.raises(SystemExit):
        arguments(["--against", "HEAD"])

    assert "not a git repository" in capsys.readouterr().err


def test_without_git_it_is_said_that_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SystemExit):
        arguments(["--against", "HEAD"])

    assert "--against needs git" in capsys.readouterr().err


@pytest.mark.parametrize("alone", ["--growth", "--render=run.json"])
def test_a_commit_is_measured_only_where_systems_are_compared(
    repository: Repository, alone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(["--against", "HEAD", alone])

    assert "--against is for a run of measures" in capsys.readouterr().err


def test_beside_a_commit_there_are_no_peers_and_no_floor_unless_they_are_asked_for(repository: Repository) -> None:
    alone = arguments(["--against", "HEAD", "--quick"])
    asked = arguments(["--against", "HEAD", "--peers", "arq"])

    assert [system.name for system in alone.systems] == ["redisjobs"]
    assert [system.name for system in asked.systems] == ["redisjobs", "arq", "floor"]


def test_a_commit_comes_right_after_the_working_tree(repository: Repository) -> None:
    options = arguments(["--against", "HEAD", "--peers", "arq"])

    with checked_out(options.against) as past:
        names = [system.name for system in beside(past, options.systems)]

    assert names == ["redisjobs", options.against[0].name, "arq", "floor"]


def test_a_checkout_has_the_commits_own_program_and_is_measured_by_todays_driver(repository: Repository) -> None:
    (repository.folder / "code.py").write_text("not committed\n")
    before = repository.state()

    with checked_out(resolved(["HEAD"])) as (system,):
        folder = system.peers.parents[1]
        assert (folder / "code.py").read_text() == "one\n"
        assert (system.peers / "redisjobs_jobs.py").read_text() == "its own\n"
        for name in ("drive.py", "meter.py"):
            assert (system.peers / name).read_text() == (PEERS / name).read_text()
        assert system.environment("redis://", folder, 1)["PYTHONPATH"] == str(system.peers)

    assert repository.state() == before


def test_a_commit_without_benchmarks_is_run_by_todays_program(repository: Repository) -> None:
    with checked_out(resolved(["HEAD~1"])) as (system,):
        assert (system.peers / "redisjobs_jobs.py").read_text() == (PEERS / "redisjobs_jobs.py").read_text()


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_checkouts_are_removed_however_a_run_ends(repository: Repository, end: type[BaseException]) -> None:
    folders = list[Path]()

    def run() -> None:
        with checked_out(resolved(["HEAD", "HEAD~1"])) as past:
            folders.extend(system.peers.parents[1] for system in past)
            assert all(folder.is_dir() for folder in folders)
            raise end

    with pytest.raises(end):
        run()

    assert len(folders) == 2
    assert not any(folder.parent.exists() for folder in folders)


def test_a_commit_that_does_not_install_is_reported_by_its_name_and_skipped(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.systems.VENVS", tmp_path / "venvs")
    run = a_run(versions={}, samples={})

    with checked_out(resolved(["HEAD"])) as past:
        there = installed(past, run, str(tmp_path / "no-python"), lambda text: None)

    assert there == []
    assert [failure[:2] for failure in run.failures] == [[past[0].name, "install"]]


# What goes wrong


def test_the_version_of_the_working_tree_is_that_of_the_distribution_that_is_installed() -> None:
    assert importlib.metadata.version(SYSTEMS[US].distribution) == redisjobs.__version__


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
    (line,) = said
    assert line.startswith("peer: skipped, ")
    assert reason.partition("no-python")[2] == line.partition("no-python")[2]


def test_why_something_was_not_measured_names_no_folder_of_the_machine() -> None:
    run = a_run(samples={})

    run.fail("peer", "drain", 'died: File "/a/folder/peer.py", line 2 | no redis://h:1/0; 3/4 of /b/x/y z/w')

    assert run.failures == [["peer", "drain", 'died: File "peer.py", line 2 | no redis://h:1/0; 3/4 of y z/w']]


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


# Schedules


def fired(number: int, pid: int = 1) -> Line:
    job = f"all@2026-11-26T08:00:0{number}Z"
    return {
        "what": "fired",
        "job": job,
        "name": "Tick",
        "db": 0,
        "pid": pid,
        "at": number,
        "added": True,
        "missed": 0,
    }


def ran(number: int, deliveries: int = 1) -> Line:
    lease = {"worker": "w", "attempt": 1, "deliveries": deliveries}
    return {**fired(number), "what": "start", "at": number + 0.1, **lease}


RULE = Schedule.every(1)
LAST = datetime(2026, 11, 26, 8, 0, 2, tzinfo=UTC)
ALL = ScheduleInfo("all", RULE, accuracy=Accuracy.ALL, last_slot=LAST)
IN_ORDER = [line for number in range(3) for line in (fired(number), ran(number))]


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (IN_ORDER, []),
        (IN_ORDER[1:], []),  # the scheduler that fired it was killed
        (IN_ORDER[:2] + IN_ORDER[4:], ["all@2026-11-26T08:00:01Z was never fired"]),
        ([*IN_ORDER, fired(1, 2)], ["all@2026-11-26T08:00:01Z was fired 2 times, by processes 1 and 2"]),
        ([*IN_ORDER, ran(1, 2)], ["all@2026-11-26T08:00:01Z ran 2 times"]),
        (IN_ORDER[:-1], ["all@2026-11-26T08:00:02Z ran 0 times"]),
    ],
    ids=["in order", "untold", "missing", "fired twice", "ran twice", "never ran"],
)
def test_each_slot_that_was_not_fired_and_run_once_is_said(told: list[Line], wrong: list[str]) -> None:
    assert judge(told, [ALL], 3) == wrong


def test_a_run_in_which_hardly_anything_was_fired_proves_nothing() -> None:
    assert judge(IN_ORDER, [ALL], 7) == ["schedule 'all' has fired 3 slots in 7 s"]


def test_commands_are_counted_by_what_the_server_says() -> None:
    said = {"cmdstat_evalsha": {"calls": 3, "usec": 9}, "cmdstat_config|resetstat": {"calls": 1, "usec": 9}}

    assert commands_of(said) == {"evalsha": 3, "config|resetstat": 1}


# What each feature costs


FEATURE_SAMPLES: Samples = {
    "plain.rate": {"redisjobs": [40_000.0, 30_000.0], "docket": [500.0, 400.0]},
    "plain.worker": {"redisjobs": [20e-6, 30e-6], "docket": [900e-6, 800e-6]},
    "plain.drain": {"redisjobs": [10e-6, 12e-6], "docket": [300e-6, 300e-6]},
    "plain.push": {"redisjobs": [5e-6, 5e-6], "docket": [100e-6, 100e-6]},
    "follow.rate": {"redisjobs": [20_000.0, 15_000.0]},
    "follow.worker": {"redisjobs": [50e-6, 80e-6]},
    "follow.drain": {"redisjobs": [30e-6, 30e-6]},
    "follow.push": {"redisjobs": [5e-6, 6e-6]},
    "wait.rate": {"redisjobs": [10_000.0, 9_000.0]},
    "wait.worker": {"redisjobs": [40e-6, 50e-6]},
    "wait.drain": {"redisjobs": [40e-6, 42e-6]},
    "wait.push": {"redisjobs": [6e-6, 6e-6]},
    "wait.waiter": {"redisjobs": [60e-6, 70e-6]},
}


def a_run_of_features(failures: Sequence[list[str]] = ()) -> Run:
    return a_run(versions={"redisjobs": "0.1.0", "docket": "0.27.0"}, samples=FEATURE_SAMPLES, failures=failures)


def cost(key: str) -> features.Figure:
    return next(one for one in features.COSTS if one.key == key)


def test_a_feature_costs_what_its_job_costs_more_than_a_plain_one_of_the_same_round() -> None:
    more = features.more(a_run_of_features(), "redisjobs", features.FEATURES["wait"], cost("drain"))

    assert more == pytest.approx([30e-6, 30e-6])


def test_a_job_that_is_pushed_by_another_is_taken_off_where_it_ran_and_not_where_it_was_not_pushed() -> None:
    run, follow = a_run_of_features(), features.FEATURES["follow"]

    assert features.more(run, "redisjobs", follow, cost("worker")) == pytest.approx([10e-6, 20e-6])
    assert features.more(run, "redisjobs", follow, cost("push")) == pytest.approx([0, 1e-6])


def test_the_tables_of_features_say_costs_and_differences_with_their_spread() -> None:
    costs, _, differences = features.ours(a_run_of_features()).partition("\n\n")

    assert cells_of(costs, "plain")[1:4] == [
        f"35,000 (30,000{DASH}40,000)",
        f"25 (20{DASH}30)",
        f"11 (10{DASH}12)",
    ]
    assert cells_of(costs, "plain")[-1] == DASH
    assert cells_of(differences, "pushes a plain job")[1:3] == ["plain", f"15 (10{DASH}20)"]
    assert cells_of(differences, "its result is kept and")[-1] == f"65 (60{DASH}70)"


def test_what_a_system_lacks_is_said_in_the_table_and_what_failed_below_it() -> None:
    failures = [["docket", "follow", "has no such thing"], ["docket", "wait", "failed: it died"]]
    run = a_run_of_features(failures)

    table = features.beside(run)
    assert cells_of(table, "pushes a plain job")[-1] == "has no such thing"
    assert cells_of(table, "its result is kept and")[-1] == "failed"
    assert cells_of(table, "plain")[-2:] == [f"41 (35{DASH}47)", f"1,250 (1,200{DASH}1,300)"]
    assert "- docket, wait: failed: it died" in features.text(run)
    assert "- docket, follow" not in features.text(run)


def test_all_features_of_a_system_are_measured_one_after_the_other_and_what_it_lacks_is_not() -> None:
    systems = [featured.FEATURED["ardiq"], featured.FEATURED["docket"]]
    asked, run = list[tuple[str, str]](), a_run(samples={})

    def taken(system: featured.Featured, feature: features.Feature) -> Figures:
        asked.append((system.name, feature.key))
        if (system.name, feature.key) == ("docket", "plain"):
            raise Failed("it died")
        return {f"{feature.key}.rate": 1.0}

    def lacks(system: featured.Featured) -> dict[str, str]:
        return {"kept": "has no such thing"} if system.name == "ardiq" else {}

    some = [features.FEATURES["plain"], features.FEATURES["kept"]]
    features.measure(systems, some, run, taken, lacks, lambda text: None)

    assert asked == [
        ("ardiq", "plain"),
        ("docket", "plain"),
        ("docket", "kept"),
        ("docket", "kept"),
        ("ardiq", "plain"),
        ("ardiq", "plain"),
        ("docket", "kept"),
    ]
    assert run.failures == [["ardiq", "kept", "has no such thing"], ["docket", "plain", "failed: it died"]]


def test_a_system_whose_program_does_not_start_is_left_out_with_the_reason() -> None:
    run = a_run(samples={})

    def lacks(system: featured.Featured) -> dict[str, str]:
        raise Failed("its producer died")

    def taken(system: featured.Featured, feature: features.Feature) -> Figures:
        raise AssertionError

    plain = features.FEATURES["plain"]
    features.measure([featured.FEATURED["ardiq"]], [plain], run, taken, lacks, lambda text: None)

    assert run.failures == [["ardiq", "plain", "failed: its producer died"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--systems", "unknown"], "there is no unknown"),
        (["--only", "nothing"], "there is no nothing"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_features_that_there_are_not_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        features.main(words)

    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_versions_of_all_packages_whose_features_are_measured_are_pinned() -> None:
    for system in featured.FEATURED.values():
        if system.name != "redisjobs":
            assert all(re.search(r"(==|@)[\d.]+$", package) for package in system.packages), system.name


# Many who wait


def test_the_time_to_a_result_counts_from_when_its_own_job_was_settled() -> None:
    ended = {"a": (1.0, 1.5), "b": (2.0, 2.25)}

    sent, told = waiters.joined(ended, {"a": 1.75, "b": 2.125})

    assert (sent, told) == ([0.125, 0.75], [-0.125, 0.25])


def test_a_result_of_a_job_that_no_one_has_settled_is_no_figure() -> None:
    with pytest.raises(Failed, match="1 results came of jobs that no worker has settled"):
        waiters.joined({"a": (1.0, 1.5)}, {"a": 1.75, "b": 2.0})


@pytest.mark.parametrize(("part", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_the_value_that_this_part_is_not_above(part: float, value: int) -> None:
    assert waiters.percentile([*range(1, 101)], part) == value


@pytest.mark.parametrize(("p99", "said"), [(0.02, "20 ms, which holds"), (0.021, "21 ms, which does not hold")])
def test_whether_who_waits_is_told_in_time_is_said(p99: float, said: str) -> None:
    assert said in waiters.verdict([waiters.Waited(2, 1, [p99], [p99], 500.0)])


@pytest.mark.slow
def test_a_tiny_run_of_waiters_has_a_time_for_each_and_one_connection_that_listens() -> None:
    waited = waiters.take(20, 0)

    assert len(waited.from_sent) == 20
    assert waited.from_sent[0] > 0
    assert waited.listening == 1
    assert "| of these, subscribed" in waiters.text(20, 500, [], [waited])


@pytest.mark.slow
def test_a_tiny_run_of_streams_has_an_age_for_each_chunk_and_reader() -> None:
    streamed = streams.take(20, 3, 0)

    assert len(streamed.ages) == 60
    assert streamed.ages[0] > 0
    assert "| from emit to a reader, p99, ms" in streams.text(20, 3, 500, [], [streamed])


# Limits


@pytest.mark.parametrize(
    ("runs", "most"),
    [
        ([], 0),
        ([(0, 10), (10, 20)], 1),  # who ends makes room
        ([(0, 10), (5, 20), (9, 12)], 3),
        ([(5, 20), (0, 10), (21, 22)], 2),
    ],
)
def test_runs_at_once_are_counted(runs: list[tuple[float, float]], most: int) -> None:
    assert limits.most_at_once(runs) == most


@pytest.mark.parametrize(
    ("starts", "over"),
    [
        ([0, 100, 200], 0),
        ([0, 0, 100, 200], 0),  # a burst of two
        ([0, 0, 0, 100], 2),  # the fourth comes too early too, as the third has taken its place
        ([0, 0, 99, 200], 0),  # whole milliseconds
        ([0, 0, 1000, 1000], 0),  # after a rest
    ],
)
def test_starts_that_come_sooner_than_a_rate_allows_are_counted(starts: list[float], over: int) -> None:
    assert limits.over_rate(starts, 10, 2) == over


def test_the_most_starts_in_a_window_are_counted() -> None:
    assert limits.most_within([0, 400, 999, 1000, 1400, 5000], 1000) == 3
    assert limits.most_within([], 1000) == 0


def limited(
    name: str, run: int, start: float, end: float | None, holders: Sequence[tuple[str, int]]
) -> list[dict[str, Any]]:
    line = {"run": f"job-{run} 1 w", "name": name}
    told = [line | {"what": "start", "at_ms": start, "holders": [list(holder) for holder in holders]}]
    return told if end is None else [*told, line | {"what": "end", "at_ms": end}]


LIMITED = [
    *(line for n in range(3) for line in limited("few", n, 0, 1000, [("a", 0), ("b", 0), ("c", 0)])),
    *(line for n in range(100) for line in limited("often", 1000 + n, n * 20, n * 20 + 9, [(f"p{n}", n * 20)])),
]
LEFT = {"few": 5, "often": 5}


def test_a_run_under_its_limits_that_used_what_is_allowed_has_nothing_wrong() -> None:
    judged = limits.judge(LIMITED, [3, 3, 2, 3], LEFT, 1)

    assert (judged.at_once, judged.counted, judged.starts, judged.most_a_second) == (3, 3, 100, 50)
    assert judged.used == pytest.approx(11 / 12)
    assert judged.allowed == 1
    assert judged.wrong == []


TOO_MANY = limited("few", 9, 500, 600, [])
TOO_SOON = [line for n in range(60) for line in limited("often", 2000 + n, 0, None, [(f"q{n}", 0)])]


@pytest.mark.parametrize(
    ("told", "counts", "left", "wrong"),
    [
        ([*LIMITED, *TOO_MANY], [3], LEFT, "4 jobs of 'few' ran at once, where 3 may"),
        (LIMITED, [3, 4, 3], LEFT, "4 jobs of 'few' were counted at once, where 3 may"),
        ([*LIMITED, *TOO_SOON], [3], LEFT, "of 160 jobs of 'often' started sooner than 50/s allows"),
        (LIMITED, [3, 2], LEFT, "of what is allowed of 'few' only 83.3% ran while jobs waited"),
        (LIMITED[:-20], [3], LEFT, "of what is allowed of 'often' only 80.0% ran while jobs waited"),
        (LIMITED, [3], {"few": 0, "often": 5}, "no job of 'few' was left to wait"),
    ],
    ids=["too many", "too many counted", "too soon", "few too seldom", "often too seldom", "none left"],
)
def test_what_is_above_a_limit_or_below_what_it_allows_is_said(
    told: list[dict[str, Any]], counts: list[int], left: dict[str, int], wrong: str
) -> None:
    (said,) = limits.judge(told, counts, left, 1).wrong

    assert wrong in said


def test_a_run_that_was_cut_off_is_told_and_may_have_run_or_not() -> None:
    judged = limits.judge([*LIMITED, *limited("few", 9, 500, None, [])], [3], LEFT, 1)

    assert (judged.cut_off, judged.at_once, judged.wrong) == (1, 3, [])


def test_a_run_whose_lease_was_lost_does_not_count() -> None:
    lost = {"what": "lost", "jobs": ["job-9"]}

    assert limits.judge([*LIMITED, *TOO_MANY, lost], [3], LEFT, 1).at_once == 3


def drains(plain: Sequence[float], keyed: Sequence[float]) -> dict[str, list[Figures]]:
    return {
        name: [{"rate": rate, "server": 1 / rate} for rate in rates]
        for name, rates in (("plain", plain), ("keyed", keyed))
    }


def test_a_drain_beside_a_blocked_key_is_said_with_the_ratio_of_each_round() -> None:
    alone, beside = drains([10_000, 20_000], [5_000, 5_000]), drains([9_000, 20_000], [5_000, 4_000])

    text = blocked.said_of_blocked(alone, beside)

    assert cells_of(text, "jobs without a limit, jobs/s")[-1] == f"0.95 (0.9{DASH}1)"
    assert cells_of(text, "jobs without a limit, Redis")[2] == f"80.6 (50{DASH}111)"


def test_jobs_that_a_blocked_key_slows_down_by_more_than_a_tenth_are_said() -> None:
    alone = drains([10_000, 10_000], [10_000, 10_000])

    assert blocked.slower(alone, drains([9_000, 9_200], [9_000, 8_000])) == [
        "'keyed' jobs are 15% slower beside a blocked key"
    ]


def test_claims_are_timed_by_turns_beside_a_line_and_without_and_told_by_their_middle() -> None:
    alone, beside = blocked.claims_beside_blocked(3, 20)
    assert len(alone) == len(beside) == 3
    assert min(alone + beside) > 0

    text = blocked.said_of_claims([100, 110, 120], [110, 121, 240])
    said = cells_of(text, "a claim of 10 jobs, Redis")
    assert said[1:] == ["110 (100 to 120)", "121 (110 to 240)", "1.1 (1.1 to 2)"]


def test_limits_are_not_measured_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.limits.HAS_LIMITS", False)

    assert limits.main([]) == 1
    assert "this version of redisjobs has no limits" in capsys.readouterr().out


# A chain of three steps; the second was begun by a worker that was killed


def step(number: int, at: float, deliveries: int = 1, *, ends: bool = True, last: bool = False) -> list[Line]:
    lease = {"job": f"step {number}", "db": 0, "pid": 1, "worker": "w", "attempt": 1, "deliveries": deliveries}
    told = {"reply": "OK", "settlement": "Ack", "cancelled": False, "sent_at": at + 0.3, "resent": False}
    parent = {"parent": lease["job"], "kept": False, "delay": 0.0, "name": "Step"}
    found: list[Line] = [{**lease, "what": "start", "name": "Step", "at": at}]
    if not last:
        found.append({**lease, **parent, "what": "follow-up", "job": f"step {number + 1}", "at": at + 0.1})
    if ends:
        found.append({**lease, "what": "end", "result": "done", "at": at + 0.2})
        found.append({**lease, **told, "what": "settled", "at": at + 0.4})
    return found


CHAIN = [*step(1, 1), *step(2, 2, ends=False), *step(2, 4, 2), *step(3, 5, last=True)]
COUNTED = {"pushed": 3, "completed": 3}


@pytest.mark.parametrize(
    ("told", "final", "wrong"),
    [
        (CHAIN, FinalState(totals=COUNTED), []),
        (
            CHAIN[:-3],
            FinalState(totals={"pushed": 2, "completed": 2}),
            [
                "step 3 was created, and never ended",
                "the store counts 2 pushed, and there must be 3",
                "the store counts 2 completed, and there must be 3",
            ],
        ),
        (
            [*CHAIN[:6], *CHAIN[10:]],
            FinalState(totals=COUNTED),
            [
                "step 3 was created, and its parent step 2 did not push it: which never ended as done",
                "step 2 was created, and never ended",
            ],
        ),
        ([*CHAIN, *step(3, 6, 2, last=True)], FinalState(totals=COUNTED), ["step 3 ended twice"]),
        (
            [*CHAIN, {"what": "JobsPushed", "pid": 1, "db": 0, "at": 5, "jobs": [["step 3", "Step", True]] * 2}],
            FinalState(totals=COUNTED),
            ["step 3 (Step) was created 2 times"],
        ),
        (
            CHAIN,
            FinalState([Letter("step 3", "worker lost")], left=["1 jobs in due"], totals=COUNTED),
            ["1 jobs in due", "step 3 is a dead letter: worker lost"],
        ),
    ],
    ids=["in order", "lost", "not pushed", "ended twice", "created twice", "left"],
)
def test_each_step_of_a_chain_that_was_not_created_and_ended_once_is_said(
    told: list[Line], final: FinalState, wrong: list[str]
) -> None:
    judged = chain.judge(told, final, "step 1", 3)

    assert judged.wrong == wrong
    assert judged.created == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_chain_goes_on_to_its_end_though_workers_and_server_are_killed() -> None:
    kills, judged = chain.endure(40, 1.5, 1)

    assert judged.wrong == []
    assert (judged.created, judged.ended) == (40, 40)
    assert kills.workers + kills.servers > 0
