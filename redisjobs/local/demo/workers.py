"""The demo's worker processes. It starts them, watches them, kills one, and stops the rest at the end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from redisjobs import sync
from redisjobs.errors import RedisJobsError
from redisjobs.local.demo.jobs import QUEUE, RECORDINGS
from redisjobs.model.info import JobInfo
from redisjobs.model.job import State
from redisjobs.worker.supervisor import PROGRAM

_STOP_WITHIN = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Kill:
    """The kill of a worker.

    Attributes:
        pid: The process id.
        at: When, in seconds since 1970.
        held: The ids of the jobs that the worker had.
    """

    pid: int
    at: float
    held: frozenset[str]


class Workers:
    """Worker processes of one queue, as a context manager that ends them all.

    Args:
        queue: The queue.
        url: The URL of its server.
        directory: The directory for recordings and logs.
        options: More arguments for `redisjobs worker`.
    """

    def __init__(self, queue: sync.JobQueue, url: str, directory: Path, *options: str) -> None:
        self._queue = queue
        self._url = url
        self._directory = directory
        self._options = options
        self._working: list[subprocess.Popen[bytes]] = []
        # In a thread, because signals don't interrupt threads: a Ctrl-C between the start of a process and the
        # append to the list would leave the process running.
        self._starter = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._starter.submit(int).result()  # starts the thread before the first process
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._starter.shutdown()
        for process in self._working:
            process.kill()
            _reap(process)

    def start(self) -> int:
        """Start a worker, and return its process id."""
        return self._starter.submit(self._start).result()

    def _start(self) -> int:
        command = [*PROGRAM, "worker", "redisjobs.local.demo.jobs:queue"]
        environment = os.environ | {QUEUE: self._queue.name, RECORDINGS: str(self._directory)}
        environment |= {"REDISJOBS_URL": self._url}  # not as an argument: it may hold a password
        with open(self._directory / "workers.log", "ab") as log:
            process = subprocess.Popen(
                [*command, "--log-level", "warning", *self._options],
                env=environment,
                stdin=subprocess.PIPE,  # the worker ends when this closes, even if the demo is killed
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches only the demo
            )
        self._working.append(process)
        return process.pid

    def watch(self) -> None:
        """Check that all workers run.

        Raises:
            RedisJobsError: A worker ended by itself. The message has the end of the log.
        """
        for process in self._working:
            if (code := process.poll()) is not None:
                log = (self._directory / "workers.log").read_text("utf-8", "replace")
                raise RedisJobsError(
                    f"worker {process.pid} ended by itself, code {code}; the log ends:\n{log[-2000:]}"
                )

    def kill_one(self) -> Kill | None:
        """Kill a worker (SIGKILL) that runs jobs, and return the kill; None if no worker runs jobs."""
        for process in self._working:
            _pause(process, True)  # so that it starts and ends no jobs meanwhile
            if self._held(process):
                process.kill()
                at = time.time()
                _reap(process)
                self._working.remove(process)
                # Read its jobs again, because its last messages may have arrived after the first look.
                return Kill(process.pid, at, frozenset(job.job_id for job in self._held(process)))
            _pause(process, False)
        return None

    def _held(self, process: subprocess.Popen[bytes]) -> list[JobInfo]:
        running = self._queue.control.jobs(State.RUNNING, 500)
        return [job for job in running if f":{process.pid}:" in job.worker]

    def stop(self) -> None:
        """Stop all workers with SIGTERM, like a deploy.

        Raises:
            RedisJobsError: A worker did not stop in time, or ended with another code than 0.
        """
        for process in self._working:
            process.terminate()
        while self._working:
            process = self._working[-1]
            try:
                code: int | str = process.wait(_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                code = f"none within {_STOP_WITHIN:g} s"
            if code not in (0, -signal.SIGTERM):  # the latter: it had not set its signal handlers yet
                raise RedisJobsError(f"worker {process.pid} was asked to stop and ended with code {code}")
            _reap(self._working.pop())


def _pause(process: subprocess.Popen[bytes], paused: bool) -> None:
    if sys.platform != "win32":
        process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
