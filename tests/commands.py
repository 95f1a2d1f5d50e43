"""Runs commands of redisjobs: in this process, or in a session of their own, whose processes are found again."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import typer.testing

import redisjobs
from redisjobs import sync
from redisjobs.cli.app import make


def module_of(queue_name: str, more: str = "") -> str:
    """The source of a module with a queue, for commands. No server is at its URL: each command gets `--url`."""
    queue = f'queue = JobQueue("redis://127.0.0.1:1/0", name="{queue_name}")\n'
    return f"from redisjobs import JobQueue, no_retry\n\n{queue}{more}"


def cli_result(there: sync.JobQueue, *arguments: str) -> typer.testing.Result:
    """Run a command about a queue in this process; return how it ended."""
    of = ["--queue", there.name, "--url", there.driver.where]
    return typer.testing.CliRunner().invoke(make(), [*arguments, *of])


def cli(there: sync.JobQueue, *arguments: str) -> str:
    """Run such a command; return what it prints, or raise its error, whose exit code is `code`."""
    ended = cli_result(there, *arguments)
    if ended.exception is not None:
        raise ended.exception
    return ended.stdout


def line_with(output: IO[str] | None, wanted: str) -> str:
    """Read an output up to the line that has `wanted`; that line."""
    assert output is not None
    return next(line for line in output if wanted in line)


def until(process: "subprocess.Popen[str]", wanted: str) -> str:
    """Read what a process prints up to the line that has `wanted`; that line."""
    return line_with(process.stdout, wanted)


class Commands:
    """The commands of one test. Their processes inherit a mark in the environment, so none is missed."""

    def __init__(self, *command: str) -> None:
        self.command = command
        self.mark = f"REDISJOBS_TEST={uuid.uuid4().hex}"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REDIS")}
        name, _, value = self.mark.partition("=")
        environment |= {name: value, "PYTHONPATH": str(Path(redisjobs.__file__).parents[1])}
        elsewhere = "redis://127.0.0.1:1/0"  # each starts servers of its own, and uses no other
        process = subprocess.Popen(
            [sys.executable, "-m", "redisjobs", *self.command, *map(str, arguments)],
            env=environment | {"REDIS_URL": elsewhere, "REDISJOBS_URL": elsewhere},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def left(self) -> dict[int, str]:
        """Their processes that run now: command line by pid."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (place / "environ").read_bytes().split(b"\0"):
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return {pid: command for pid, command in found.items() if command}

    def left_after(self, seconds: float) -> dict[int, str]:
        """The same once there are none, or that much later."""
        end = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def end(self) -> None:
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.communicate()


@contextmanager
def commands(*command: str) -> Iterator[Commands]:
    """Commands whose processes are all gone at the end."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to find processes by their environment")
    running = Commands(*command)
    yield running
    running.end()


_FINDINGS = ("lost", "stolen", "left", "twice", "wrong")


def report_of(torture: "subprocess.Popen[str]", file: Path, timeout: float) -> dict[str, Any]:
    """What a torture, which has to pass, reports in a file. If it fails, what it found is named first."""
    out, err = torture.communicate(timeout=timeout)
    told: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found = {name: told[name] for name in _FINDINGS if told.get(name)}
    assert (torture.returncode, found) == (0, {}), f"{err[-2000:]}\n{out}"
    assert (told["passed"], err) == (True, "")
    return told | {"text": out}
