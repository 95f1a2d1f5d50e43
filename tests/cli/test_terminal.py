"""What a command prints, whatever the terminal; and that no module in its folder leads it astray."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from commands import module_of

import redisjobs
from redisjobs import JobInfo, Priority, State, sync
from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.log import JsonFormatter
from redisjobs.cli.target import where

HOSTILE = "a\n2026-01-01T00:00:00.000Z ERROR forged\x1b[2J\u202e\x9b"
SHOWN = "a\\n2026-01-01T00:00:00.000Z ERROR forged\\x1b[2J\\u202e\\x9b"
WORK = """
@queue.job(retry=no_retry())
def work(text: str = "") -> None:
    if text:
        raise ValueError(text)
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path, queue_name: str) -> Path:
    (tmp_path / "shop.py").write_text(module_of(queue_name, WORK))
    return tmp_path


@pytest.fixture
def environment(redis_url: str, there: object) -> dict[str, str]:
    return os.environ | {"REDISJOBS_URL": redis_url, "PYTHONPATH": str(Path(redisjobs.__file__).parents[1])}


# As the console script starts: with a folder of no modules first, not with the current one.
SCRIPT = [sys.executable, "-P", "-c", "from redisjobs.__main__ import main; main()"]


@pytest.fixture
def run(folder: Path, environment: dict[str, str]) -> Run:
    """Run a command as a process of its own."""

    def run(*arguments: str, **changes: Any) -> "subprocess.CompletedProcess[str]":
        env = environment | changes.pop("env", {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | changes
        return subprocess.run([*SCRIPT, *arguments], cwd=folder, env=env, text=True, timeout=40, **pipes)

    return run


# What can't be shown, and who doesn't read


@pytest.mark.slow
def test_a_terminal_that_lacks_a_character_does_not_fail_a_push_that_was_made(
    run: Run, there: sync.JobQueue
) -> None:
    pushed = run("push", "shop:queue", "work", "{}", "--id", "größe-日本", env={"PYTHONIOENCODING": "ascii"})

    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert "gr\\xf6\\xdfe-\\u65e5\\u672c" in pushed.stdout
    assert there.get("größe-日本") is not None


@pytest.mark.slow
def test_the_plainest_of_locales_shows_every_table(run: Run, queue_name: str) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    run("push", "shop:queue", "work", "{}", "--id", "größe")

    for command in (["stats"], ["jobs", "--state", "ready"]):
        told = run(*command, "-q", queue_name, env=plain)
        assert (told.returncode, told.stderr) == (0, ""), command


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_pipe_that_no_one_reads_does_not_fail_a_push_that_was_made(
    run: Run, there: sync.JobQueue, flags: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        pushed = run("push", "shop:queue", "work", "{}", "--id", "mine", *flags, stdout=writing)
    finally:
        os.close(writing)

    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert there.get("mine") is not None


@pytest.mark.slow
def test_a_terminal_that_is_gone_does_not_fail_a_push_that_was_made(
    folder: Path, environment: dict[str, str], there: sync.JobQueue
) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *SCRIPT, "push", "shop:queue", "work", "{}", "--id", "mine"]
    pushed = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, timeout=40)

    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert there.get("mine") is not None


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_does_not_hide_what_was_done(
    run: Run, there: sync.JobQueue, queue_name: str, flags: list[str]
) -> None:
    def told(*arguments: str) -> str:
        with open("/dev/full", "w") as full:
            ended = run(*arguments, *flags, stdout=full)
        (line,) = ended.stderr.splitlines()
        assert (ended.returncode, line[:11]) == (1, "redisjobs: ")
        said, _, why = line[11:].partition("; ")
        assert why == "but stdout can't be written: No space left on device"
        return said

    push = ("push", "shop:queue", "work", "{}", "--id", "mine")
    assert told(*push) == f"mine added to {where(there)}"
    assert there.get("mine") is not None
    assert told(*push) == f"mine already on {where(there)}"
    assert told("cancel", "mine", "-q", queue_name) == f"mine on {where(there)}: cancelled"
    assert there.get("mine") is None
    assert told("dead", "requeue", "--all", "-q", queue_name) == f"requeued 0 dead letters on {where(there)}"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
def test_what_only_looks_says_in_one_line_that_it_can_not_be_written(run: Run, queue_name: str) -> None:
    for arguments in (["stats"], ["stats", "--watch"], ["jobs", "--state", "ready"]):
        with open("/dev/full", "w") as full:
            ended = run(*arguments, "-q", queue_name, stdout=full)
        assert ended.returncode == 1
        assert ended.stderr == "redisjobs: stdout can't be written: No space left on device\n"


# Text from outside


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 日本 🎉", "größe 日本 🎉"),
        (HOSTILE, SHOWN),
        ("\ud800\x00\r\x7f\xa0", "\\ud800\\x00\\r\\x7f\\xa0"),
        ("", ""),
    ],
)
def test_what_would_act_on_a_terminal_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_visible_text_is_cut_where_it_is_told_to_be() -> None:
    assert visible("abcdef", 6) == "abcdef"
    assert visible("abcdefg", 6) == "abcde…"
    assert visible("ab\n\n\n", 6) == "ab\\n\\…"


@pytest.mark.slow
def test_ids_and_names_from_outside_forge_no_line_of_what_is_printed(
    run: Run, there: sync.JobQueue, redis_url: str, queue_name: str
) -> None:
    key = f"redisjobs:{{{queue_name}}}"
    with redis.Redis.from_url(redis_url) as admin:
        admin.xadd(f"{key}:ready:normal", {"id": HOSTILE, "name": HOSTILE, "parameters": '{"text": "no"}'})
        admin.hset(f"{key}:stats", HOSTILE, 1)
    run("push", "shop:queue", "work", "{}", "--id", HOSTILE, "--unique", "key")

    told = [
        run("push", "shop:queue", "work", "{}", "--unique", "key"),
        run("jobs", "--state", "ready", "-q", queue_name),
        run("stats", "-q", queue_name),
        run("job", HOSTILE, "-q", queue_name),
        run("dead", "requeue", HOSTILE, "-q", queue_name),
        run("dead", "delete", HOSTILE, "-q", queue_name),
        run("dead", "show", HOSTILE, "-q", queue_name),
    ]

    for each in told:
        printed = each.stdout + each.stderr
        assert SHOWN in printed
        assert not any(line.startswith("2026-01-01") for line in printed.splitlines())
        assert not set("\x1b\x9b\u202e") & set(printed)


@pytest.mark.slow
def test_ids_and_names_from_outside_forge_no_line_of_the_log(
    run: Run, there: sync.JobQueue, redis_url: str, queue_name: str
) -> None:
    with redis.Redis.from_url(redis_url) as admin:
        for name, text in ((HOSTILE, ""), ("work", ""), ("work", "no")):
            fields = {"id": HOSTILE + name + text, "name": name, "parameters": json.dumps({"text": text})}
            admin.xadd(f"redisjobs:{{{queue_name}}}:ready:normal", fields)

    worked = run("worker", "shop:queue", "--until-idle", "--unknown-for", "0")

    assert worked.returncode == 0
    assert f"job {SHOWN}work (work, attempt 1" in worked.stderr
    assert f"job {SHOWN}{SHOWN} ({SHOWN}, attempt 1" in worked.stderr
    assert not any(line.startswith("2026-01-01") for line in worked.stderr.splitlines())
    assert {letter.name for letter in there.control.jobs(State.DEAD)} == {HOSTILE, "work"}


# JSON


@pytest.mark.parametrize("depth", [10, 300, 900, 990, 1000, 5_000, 50_000, 200_000])
def test_parameters_however_deep_are_printed_as_json(depth: int, capsys: pytest.CaptureFixture[str]) -> None:
    deep = "[" * depth + "]" * depth
    job = JobInfo(job_id="a", name="n", state=State.READY, priority=Priority.LOW, parameters=deep)

    show.document([show.job_document(job)])

    (printed,) = json.loads(capsys.readouterr().out)
    told = printed["parameters"]
    assert (told if isinstance(told, str) else json.dumps(told).replace(" ", "")) == deep


@pytest.mark.parametrize("text", ['{"n": NaN}', "[Infinity]", "[-Infinity, 1e999]", '{"n": '])
def test_parameters_that_are_no_json_are_printed_as_their_text(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = JobInfo(job_id="a", name="n", state=State.READY, priority=Priority.LOW, parameters=text)

    show.document([show.job_document(job)])

    (printed,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["parameters"] == text


# Watching


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_stats_are_shown_again_until_ctrl_c(
    folder: Path, environment: dict[str, str], queue_name: str, flags: list[str]
) -> None:
    command = [*SCRIPT, "stats", "-q", queue_name, "--watch", "0.1", *flags]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            shown = iter(watching.stdout)
            for _ in range(3):
                line = next(line for line in shown if "running" in line)
            if flags:
                assert json.loads(line)["running"] == 0
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 0
        finally:
            watching.kill()


@pytest.mark.slow
def test_watching_ends_when_no_one_reads_it_any_more(
    folder: Path, environment: dict[str, str], queue_name: str
) -> None:
    command = [*SCRIPT, "stats", "-q", queue_name, "--watch", "0.1"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            next(iter(watching.stdout))
            watching.stdout.close()
            assert watching.wait(20) == 0
        finally:
            watching.kill()


# What lies in the folder


OTHERS = ("queue", "types", "redis", "logging", "random", "concurrent", "tenacity")


@pytest.fixture
def littered(folder: Path) -> Path:
    """The folder, with modules whose names are those of others."""
    for name in OTHERS:
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong one was imported')")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("littered")
@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_modules_in_the_folder_do_not_stand_in_for_those_of_others(
    run: Run, there: sync.JobQueue, processes: list[str]
) -> None:
    pushed = run("push", "shop:queue", "work", "{}")
    assert (pushed.returncode, pushed.stderr) == (0, "")

    worked = run("worker", "shop:queue", "--until-idle", *processes)

    assert worked.returncode == 0, worked.stderr
    assert "the wrong one" not in worked.stderr
    assert there.control.counts().totals["completed"] == 1


@pytest.mark.slow
def test_a_module_named_like_the_client_is_left_alone_also_by_python_m(
    folder: Path, environment: dict[str, str], there: sync.JobQueue
) -> None:
    (folder / "redis.py").write_text("raise SystemExit('the wrong one was imported')")
    command = [sys.executable, "-m", "redisjobs", "push", "shop:queue", "work", "{}", "--id", "mine"]

    assert subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=40).returncode == 0
    assert there.get("mine") is not None


@pytest.mark.slow
def test_a_module_whose_name_is_taken_is_told_so(run: Run, folder: Path) -> None:
    (folder / "queue.py").write_text((folder / "shop.py").read_text())

    told = run("push", "queue:jobs", "work", "{}")

    assert told.returncode == 2
    (line,) = told.stderr.splitlines()
    assert line.endswith(f"{folder / 'queue.py'} has a name that is taken: give it another")


@pytest.mark.slow
def test_a_module_in_the_folder_comes_before_what_is_installed(run: Run, folder: Path) -> None:
    (folder / "pytest.py").write_text((folder / "shop.py").read_text())

    assert run("push", "pytest:queue", "work", "{}").returncode == 0


# Logging


def logged(**extra: Any) -> Any:
    """What a line of JSON has of a record's `extra`, read as strictly as can be."""
    record = logging.makeLogRecord({"name": "mine", "msg": "hello", "levelname": "INFO"} | extra)
    line = json.loads(JsonFormatter().format(record), parse_constant=pytest.fail)
    assert (line["message"], line["level"]) == ("hello", "info")
    return {key: line[key] for key in extra}


def test_a_line_of_json_has_what_json_can_not_carry_as_its_repr() -> None:
    loop: list[Any] = []
    loop.append(loop)
    odd = {"ratio": math.nan, "most": math.inf, "least": -math.inf, "inner": {"a": [math.nan]}, "loop": loop}
    assert logged(**odd) == {key: repr(value) for key, value in odd.items()}
    plain = {"half": 0.5, "none": None, "list": [1, "a", {"b": 2.5}], "number": 5}
    assert logged(**plain, nan=math.nan) == plain | {"nan": "nan"}
    assert logged(path=Path("/a"), many={1: {2}}) == {"path": repr(Path("/a")), "many": {"1": "{2}"}}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--processes", "1"]])
def test_a_log_of_json_has_one_object_a_line_with_what_is_known_of_the_job(
    run: Run, there: sync.JobQueue, queue_name: str, processes: list[str]
) -> None:
    run("push", "shop:queue", "work", '{"text": "two\\nlines"}', "--id", "mine")

    worked = run("worker", "shop:queue", "--until-idle", "--log", "json", *processes)

    lines = [json.loads(line) for line in worked.stderr.splitlines()]
    assert worked.returncode == 0
    (ended,) = (line for line in lines if line.get("settlement") == "DeadLetter")
    told = (ended["job_id"], ended["job_name"], ended["attempt"], ended["queue"])
    assert told == ("mine", "work", 1, queue_name)
    assert (ended["level"], ended["logger"]) == ("error", "redisjobs.worker")
    assert ended["message"].endswith("dead letter, failed: ValueError: two lines")
    assert ended["exception"].endswith("ValueError: two\nlines")
    assert ended["time"].endswith("Z")
