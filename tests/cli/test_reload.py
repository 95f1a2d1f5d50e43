"""`redisjobs worker --reload`: real processes, and files that change under them."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import Fleet
from store import eventually

from redisjobs.cli import reload
from redisjobs.cli.errors import Mistake
from redisjobs.model.job import JobName
from redisjobs_proof.torture.fleet.hosts import children

HANDLER = """
import asyncio, os, time

from redisjobs import JobContext, JobQueue

queue = JobQueue(os.environ["REDISJOBS_URL"], os.environ["QUEUE"])


@queue.job
async def work(how: str, context: JobContext) -> None:
    with open("recording", "a") as recording:
        recording.write(f"start VERSION {how} {context.attempt} {context.deliveries}\\n")
    seconds = 0 if "VERSION" == "new" else 60
    match how:
        case "blocks":
            time.sleep(seconds)
        case "blocks a thread":
            await asyncio.get_running_loop().run_in_executor(None, time.sleep, seconds)
        case "waits":
            await asyncio.sleep(seconds)
"""
WORK = JobName("work", dict[str, str])


@pytest.fixture
def write(fleet: Fleet) -> Callable[[str], None]:
    """Write the source of the worker, which then says this version."""
    return lambda version: change(fleet, HANDLER.replace("VERSION", version))


def change(fleet: Fleet, source: str) -> None:
    (fleet.folder / "shop.py").write_text(source)


def push(fleet: Fleet, *how: str) -> None:
    fleet.queue.push_many([{"how": one} for one in how], WORK)


async def started(fleet: Fleet, *lines: str, within: float = 20) -> None:
    """Wait for exactly these runs, as version, how, attempt, deliveries."""

    def runs() -> list[str]:
        recording = fleet.folder / "recording"
        text = recording.read_text() if recording.exists() else ""
        return sorted(line.removeprefix("start ") for line in text.splitlines())

    await eventually(lambda: len(runs()) >= len(lines), within=within)
    assert runs() == sorted(lines)


async def logged(fleet: Fleet, text: str, times: int = 1) -> None:
    await eventually(lambda: (fleet.folder / "log").read_text().count(text) >= times, within=20)


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--processes", "2")])
async def test_a_change_restarts_the_workers_and_costs_a_running_job_neither_attempt_nor_delivery(
    fleet: Fleet, write: Callable[[str], None], options: tuple[str, ...]
) -> None:
    write("old")
    supervisor = fleet.command("--reload", *options, targets=["shop:queue"])
    push(fleet, "waits")
    await started(fleet, "old waits 1 1")
    before = set(children(supervisor.pid))

    write("new")

    await started(fleet, "old waits 1 1", "new waits 1 1")
    await eventually(lambda: len(children(supervisor.pid)) == len(before), within=20)
    assert not before & set(children(supervisor.pid))
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(20) == 0
    assert "shop.py changed" in (fleet.folder / "log").read_text()
    assert "WARNING" not in (fleet.folder / "log").read_text()


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("how", ["blocks", "blocks a thread"])
async def test_a_handler_that_can_not_be_cancelled_is_killed_at_a_change_and_its_job_is_not_blamed(
    fleet: Fleet, write: Callable[[str], None], how: str
) -> None:
    write("old")
    fleet.command("--reload", targets=["shop:queue"])
    push(fleet, how)
    await started(fleet, f"old {how} 1 1")

    write("new")

    await started(fleet, f"old {how} 1 1", f"new {how} 1 1", within=15)


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_mistake_in_the_source_is_shown_and_the_next_change_is_waited_for(
    fleet: Fleet, write: Callable[[str], None]
) -> None:
    write("old")
    supervisor = fleet.command("--reload", targets=["shop:queue"])
    push(fleet, "waits")
    await started(fleet, "old waits 1 1")

    change(fleet, "def f(")
    await logged(fleet, "the next change")
    push(fleet, "passes")
    write("new")

    await started(fleet, "old waits 1 1", "new waits 1 1", "new passes 1 1")
    log = (fleet.folder / "log").read_text()
    assert "SyntaxError" in log
    assert log.count("could not start") == 1, "it waits, and does not try again and again"
    change(fleet, "def f(")
    await logged(fleet, "the next change", 2)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(5) == 0


@pytest.mark.anyio
@pytest.mark.slow
async def test_of_two_changes_within_a_second_that_keep_the_size_the_last_one_counts(
    fleet: Fleet, write: Callable[[str], None]
) -> None:
    write("old")
    fleet.command("--reload", targets=["shop:queue"])
    await logged(fleet, "runs queue")
    stamp = (fleet.folder / "shop.py").stat()

    write("new")
    os.utime(fleet.folder / "shop.py", (stamp.st_mtime, stamp.st_mtime))  # as if it all were in one second
    await logged(fleet, "runs queue", 2)
    push(fleet, "passes")

    await started(fleet, "new passes 1 1")


@pytest.mark.anyio
@pytest.mark.slow
async def test_only_python_files_count_and_not_those_of_installed_packages(
    fleet: Fleet, write: Callable[[str], None], tmp_path: Path
) -> None:
    write("old")
    other = tmp_path / "elsewhere"
    (other / ".venv").mkdir(parents=True)
    fleet.command("--reload", "--reload-dir", str(other), targets=["shop:queue"])
    await logged(fleet, "runs queue")

    write("new")  # in a directory that is not watched now
    (other / "notes.txt").write_text("")
    (other / ".venv" / "library.py").write_text("")
    (other / "more.py").write_text("")

    await logged(fleet, "runs queue", 2)
    (line,) = [line for line in (fleet.folder / "log").read_text().splitlines() if "changed: restarting" in line]
    assert "elsewhere/more.py changed" in line


def test_what_is_watched_is_the_folder_of_a_module_or_the_whole_package_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_shop" / "jobs").mkdir(parents=True)
    (tmp_path / "one_shop" / "__init__.py").touch()
    (tmp_path / "one_shop" / "jobs" / "queue.py").touch()
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "one_app.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "lone"), *sys.path])
    __import__("one_shop.jobs.queue")
    __import__("one_app")

    watched = reload.directories(["one_shop.jobs.queue", "one_app", "one_shop"], None)

    assert watched == [tmp_path / "one_shop", tmp_path / "lone"]
    assert reload.directories(["one_app"], [tmp_path]) == [tmp_path]
    with pytest.raises(Mistake, match="--reload-dir"):
        reload.directories(["one_app"], [tmp_path / "none"])


def test_without_watchfiles_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]

    with pytest.raises(Mistake, match=r"\[reload\]"):
        reload.need_watchfiles()
