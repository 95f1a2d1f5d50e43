"""Processes that share a queue and a recording, for the tests that kill them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from store import eventually

from redisjobs.model.job import JobName
from redisjobs.sync import JobQueue
from redisjobs_proof.torture.fleet.hosts import children

APP = """
import asyncio, gc, os, signal, sys, threading, time
from dataclasses import dataclass
from typing import ClassVar

import anyio.to_thread
from redisjobs import JobContext, JobQueue, Worker

queue = JobQueue(os.environ["REDISJOBS_URL"], os.environ["QUEUE"])
hoard = []


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    label: str
    seconds: float = 0.01


def note(what: str, context: JobContext, work: Work) -> None:
    line = f"{what} {work.label} {context.worker_id} {context.attempt} {context.deliveries}\\n"
    descriptor = os.open("recording", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())  # one write, one line, whatever happens next
    os.close(descriptor)


async def leave(code: int) -> None:
    sys.exit(code)


def leave_from_outside_any_task(code: int) -> threading.Event:
    heard = threading.Event()

    def insist() -> None:  # where an exit is raised, in a line of the log say, it may go no further
        while not heard.wait(0.2):
            os.kill(os.getpid(), signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(code))
    threading.Thread(target=insist, daemon=True).start()
    return heard


@queue.register(Work)
async def work(work: Work, context: JobContext) -> None:
    note("start", context, work)
    match work.label.partition("-")[0]:
        case "killer":
            os.kill(os.getpid(), 9)
        case "mistake":
            os._exit(2)
        case "exits":
            await asyncio.gather(leave(int(work.label[-1])))
        case "signals":
            heard = leave_from_outside_any_task(int(work.label[-1]))
            try:
                await asyncio.sleep(60)
            finally:
                heard.set()
        case "quits":
            os._exit(int(work.label[-1]))
        case "terminates":
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(work.seconds)
        case "stops":
            next(each for each in gc.get_objects() if isinstance(each, Worker)).stop()
            await asyncio.sleep(work.seconds)
        case "thread":
            await anyio.to_thread.run_sync(time.sleep, work.seconds, abandon_on_cancel=True)
        case "executor":  # which the event loop waits for when it is closed
            asyncio.get_running_loop().run_in_executor(None, time.sleep, work.seconds)
        case "blocker":  # of the event loop
            time.sleep(work.seconds)
        case "stubborn":
            end = time.monotonic() + work.seconds
            while time.monotonic() < end:
                try:
                    await asyncio.sleep(work.seconds)
                except asyncio.CancelledError:
                    time.sleep(0.05)  # anyio cancels again at once, so this would keep a core busy
        case "hog":
            hoard.append(bytearray(os.urandom(1000)) * 60_000)
            await asyncio.sleep(work.seconds)  # the worker looks at its memory now and then
        case _:
            await asyncio.sleep(work.seconds)
    note("end", context, work)
"""

WORKER = """
import asyncio, logging, sys
from app import queue
from redisjobs import Worker
logging.basicConfig(level=logging.INFO)
options = dict(pair.split("=") for pair in sys.argv[1:])
worker = Worker(queue, concurrency=int(options.pop("concurrency", 4)), worker_id=options.pop("id"),
                **{key: float(value) for key, value in options.items()})
asyncio.run(worker.run(handle_signals=True))
"""


class Work(TypedDict):
    """The parameters of the app's one job, for a producer that does not import it."""

    label: str
    seconds: float


WORK = JobName("Work", Work)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it goes while it is read
        return True


class Fleet:
    """Processes that share a queue and a recording."""

    def __init__(self, folder: Path, url: str, queue_name: str) -> None:
        self.folder = folder
        self.queue = JobQueue(url, queue_name)
        self.env = dict(os.environ, REDISJOBS_URL=url, QUEUE=queue_name, PYTHONPATH=str(Path(__file__).parents[1]))
        self.processes: list[subprocess.Popen[bytes]] = []
        (folder / "app.py").write_text(APP)

    def python(self, code: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return self.start([sys.executable, "-c", "import sys; sys.path.insert(0, '')\n" + code, *arguments])

    def start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Any command, in the folder of the fleet."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def worker(self, worker_id: str, **options: float) -> "subprocess.Popen[bytes]":
        return self.python(WORKER, f"id={worker_id}", *(f"{key}={value}" for key, value in options.items()))

    def command(self, *arguments: str, targets: Sequence[str] = ("app:queue",)) -> "subprocess.Popen[bytes]":
        """`redisjobs worker` with targets, and more arguments."""
        return self.start([sys.executable, "-m", "redisjobs", "worker", *targets, *arguments])

    async def at_work(self, *worker_ids: str) -> None:
        """Wait until these workers have reached the queue."""
        log = self.folder / "log"
        lines = [rf"worker {worker_id}:\w+ runs queue" for worker_id in worker_ids]
        await eventually(lambda: all(re.search(line, log.read_text()) for line in lines), within=20)

    def recording(self, what: str) -> list[list[str]]:
        """The lines that say this of a job: its label, the name of its worker, attempt, deliveries."""
        recording = self.folder / "recording"
        lines = recording.read_text().splitlines() if recording.exists() else []
        told = [line.split()[1:] for line in lines if line.startswith(what + " ")]
        return [[label, worker.rpartition(":")[0], *counts] for label, worker, *counts in told]

    def labels(self, what: str) -> Counter[str]:
        return Counter(label for label, *_ in self.recording(what))

    def push(self, *labels: str, seconds: float = 0) -> None:
        self.queue.push_many([Work(label=label, seconds=seconds) for label in labels], WORK)

    def end(self) -> None:
        for process in self.processes:
            orphans = children(process.pid)
            process.kill()
            process.wait()
            for pid in orphans:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                while not has_ended(pid):
                    time.sleep(0.005)
        self.queue.close()
