"""One system at work: a server of its own, its producer, its workers, and what is read off them."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from benchmarks.systems import Failed, System
from redisjobs.local import server

SIZE = 200  # bytes of a job's one argument
_TICK = os.sysconf("SC_CLK_TCK")
_COUNT, _STAMP = struct.Struct("=QQQ"), struct.Struct("=QQ")
_POLL, _ANSWER_WITHIN, _START_WITHIN, _STOP_WITHIN = 0.003, 120.0, 30.0, 2.0  # seconds
_MONITORED = re.compile(rb'^\+[\d.]+ \[\d+ (\S+)\] "([^"]*)"(?: "([^"]*)")?', re.MULTILINE)


@dataclass(frozen=True)
class Counted:
    """What worker processes have counted: jobs, and the times in ns of the first and the last."""

    processes: int
    jobs: int
    first: int
    last: int

    @property
    def seconds(self) -> float:
        """From the opening of the gate to the last job."""
        return (self.last - self.first) / 1e9


class Producer:
    """The producer of a session's system, in a process of its own that starts when it is asked something."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._driver: subprocess.Popen[str] | None = None

    def ask(self, do: str, **arguments: Any) -> Any:
        """Let the system's producer do something; see `peers/drive.py`.

        Raises:
            Failed: It did not, or did not answer.
        """
        if self._driver is None:
            self._driver = self._start_driver()
            self._answer(self._driver)
        self._say(self._driver, {"do": do, **arguments})
        return self._answer(self._driver)

    def fill(self, job: str, count: int, size: int = SIZE) -> dict[str, Any]:
        """Put jobs on the queue in the fastest way the system has."""
        answer: dict[str, Any] = self.ask("fill", job=job, count=count, size=size)
        return answer

    def stop(self) -> None:
        """End the producer; its connections are gone then."""
        if self._driver is not None:
            driver, self._driver = self._driver, None
            with driver:  # closes what leads to it, and waits
                if driver.stdin:
                    driver.stdin.close()
                try:
                    driver.wait(_STOP_WITHIN)
                except subprocess.TimeoutExpired:
                    driver.kill()

    def _start_driver(self) -> subprocess.Popen[str]:
        with open(self._session.folder / "driver.log", "ab") as log:
            return subprocess.Popen(
                self._session.system.producer,
                cwd=self._session.system.peers,
                env=self._session.environment(self._session.system.concurrency),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _say(self, driver: subprocess.Popen[str], request: dict[str, Any]) -> None:
        assert driver.stdin is not None
        try:
            driver.stdin.write(json.dumps(request) + "\n")
            driver.stdin.flush()
        except OSError as error:
            raise Failed(f"its producer died: {self._end_of_log()}") from error

    def _answer(self, driver: subprocess.Popen[str]) -> Any:
        assert driver.stdout is not None
        timer = _Killer(driver, _ANSWER_WITHIN)
        with timer:
            line = driver.stdout.readline()
        if not line:
            raise Failed(f"its producer {'hung' if timer.fired else 'died'}: {self._end_of_log()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["answer"]

    def cpu(self) -> float:
        """CPU seconds that it has used; 0 if it is not there."""
        return _cpu(self._driver.pid) if self._driver is not None else 0.0

    def _end_of_log(self) -> str:
        return end_of(self._session.folder / "driver.log")


class Session:
    """A context manager: a fresh server, and whatever was started on it ended at its end."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.folder = Path(tempfile.mkdtemp(prefix="redisjobs-bench-"))
        self.meter = self.folder / "meter"
        self.meter.mkdir()
        self.producer = Producer(self)
        self._workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._start_server()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_workers(0)
        self.producer.stop()
        self._stop_server()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_server(self) -> None:
        # No disk: it would be measured as well, and what the systems differ in is not there.
        self.server = server.start(options=("--appendonly", "no"))
        self.redis: Any = redis.Redis.from_url(self.server.url)

    def _stop_server(self) -> None:
        self.redis.close()
        self.server.stop()

    @property
    def url(self) -> str:
        """Where the system's queue is."""
        return self.server.url

    # The workers' side

    def start_workers(self, processes: int = 1, concurrency: int | None = None) -> None:
        """Start worker processes; they wait at the gate with their first job."""
        self._start_workers(processes, concurrency or self.system.concurrency)

    def start_untuned_workers(self) -> None:
        """The same as the system starts them by their own defaults."""
        self._start_workers(None, None)

    def _start_workers(self, processes: int | None, concurrency: int | None) -> None:
        for command in self.system.workers(self.system.programs, processes, concurrency):
            with open(self.folder / "worker.log", "ab") as log:
                self._workers.append(
                    subprocess.Popen(
                        [self.url if word == "URL" else word for word in command],
                        cwd=self.system.peers,
                        env=self.environment(concurrency),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # so that its children are found by their session
                    )
                )

    def stop_workers(self, within: float = _STOP_WITHIN) -> None:
        """End them, and whatever they started; those that took longer are killed."""
        workers, self._workers = self._workers, []
        for worker in workers if within else ():
            worker.terminate()
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(within)
            for pid in _session_of(worker.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            worker.wait()

    def open_gate(self) -> None:
        """Let the first jobs go on."""
        (self.meter / "gate").touch()

    def close_gate(self) -> None:
        """Let processes that start from here on wait again."""
        (self.meter / "gate").unlink()

    def counted(self) -> Counted:
        """What the worker processes have counted up to now."""
        rows = [_COUNT.unpack(path.read_bytes()) for path in self.meter.glob("*.count")]
        begun = [row for row in rows if row[0]]
        first = min((row[0] for row in begun), default=0)
        return Counted(len(rows), sum(row[2] for row in rows), first, max((row[1] for row in begun), default=0))

    def wait(self, until: Callable[[Counted], bool], within: float, what: str) -> Counted:
        """Wait for what the workers count.

        Raises:
            Failed: It did not come, or a worker died.
        """
        deadline = time.monotonic() + within
        while not until(counted := self.counted()):
            if dead := [worker for worker in self._workers if worker.poll() is not None]:
                raise Failed(f"a worker ended with {dead[0].returncode}: {end_of(self.folder / 'worker.log')}")
            if time.monotonic() > deadline:
                log = end_of(self.folder / "worker.log")
                raise Failed(f"{what}: {counted.jobs} jobs, {counted.processes} processes in {within:g} s; {log}")
            time.sleep(_POLL)
        return counted

    def arrived(self, processes: int) -> None:
        """Wait until that many processes stand at the gate."""
        self.wait(lambda counted: counted.processes >= processes, _START_WITHIN, "waiting for the first jobs")

    def all_arrived(self) -> None:
        """Wait until as many processes stand at the gate as come: none more within a second."""
        self.arrived(1)
        before = 0
        while before != (before := self.counted().processes):
            time.sleep(1)

    def stamps(self) -> list[float]:
        """Seconds from the time in a job's text to its start, in the order they started."""
        data = b"".join(path.read_bytes() for path in self.meter.glob("*.stamps"))
        return [(start - due) / 1e9 for due, start in _STAMP.iter_unpack(data)]

    def clear_stamps(self) -> None:
        """Forget them; the files stay, for the workers have them open."""
        for path in self.meter.glob("*.stamps"):
            os.truncate(path, 0)

    def cpu(self) -> float:
        """CPU seconds that the workers' processes have used."""
        return sum(_cpu(pid) for worker in self._workers for pid in _session_of(worker.pid))

    def resident(self) -> float:
        """Resident bytes of the workers' processes, their parents included."""
        return sum(_resident(pid) for worker in self._workers for pid in _session_of(worker.pid))

    # The server's side

    def server_cpu(self) -> float:
        """CPU seconds that the server has used."""
        info = self.redis.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def server_memory(self) -> int:
        """Bytes that the server has allocated."""
        return int(self.redis.info("memory")["used_memory"])

    def watched(self, seconds: float) -> dict[str, int]:
        """Commands that clients send meanwhile, by name; what scripts run is not counted."""
        with self.monitored() as monitor:
            time.sleep(seconds)
        return monitor.counts

    def monitored(self) -> "Monitor":
        """The same, for as long as a `with` block takes."""
        return Monitor(self.server.port)

    def environment(self, concurrency: int | None) -> dict[str, str]:
        """The variables that the system's processes are started with."""
        return self.system.environment(self.url, self.meter, concurrency)


def end_of(log: Path) -> str:
    """The last lines of a log."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return " | ".join(lines[-3:])[-500:] or "nothing in its log"


class Monitor:
    """A context manager that counts the commands of clients; `counts` has them at its end, by name.

    `said` has all that `MONITOR` said.

    `MONITOR` is the only way to tell them from what scripts run: it marks those with `lua`. It slows a busy server
    down, so no time is taken meanwhile.
    """

    def __init__(self, port: int) -> None:
        self.counts: dict[str, int] = {}
        self.said = b""
        self._socket = socket.create_connection((server.HOST, port))
        self._seen: list[bytes] = []
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._socket.sendall(b"MONITOR\r\n")
        self._seen.append(self._socket.recv(1 << 16))  # it has begun
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()
        self.said = b"".join(self._seen)
        self.counts = commands_in(self.said)

    def _read(self) -> None:
        while data := self._socket.recv(1 << 20):
            self._seen.append(data)


def commands_in(monitored: bytes) -> dict[str, int]:
    """Count what `MONITOR` said, by command, `evalsha` with its hash; what a script ran is marked with `lua`."""
    counts: dict[str, int] = {}
    for match in _MONITORED.finditer(monitored):
        if match[1] != b"lua":
            name = match[2].decode(errors="replace").lower()
            if name == "evalsha" and match[3]:
                name += " " + match[3].decode(errors="replace")
            counts[name] = counts.get(name, 0) + 1
    return counts


class _Killer:
    """Kills a process that does not answer in time, so that reading from it ends."""

    def __init__(self, process: subprocess.Popen[str], within: float) -> None:
        self._process, self._within, self.fired = process, within, False

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._fire)
        signal.setitimer(signal.ITIMER_REAL, self._within)

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _fire(self, number: int, frame: object) -> None:
        self.fired = True
        self._process.kill()


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _session_of(leader: int) -> list[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if (stat := _stat(pid)) and int(stat[3]) == leader and stat[0] != "Z"]


def _cpu(pid: int) -> float:
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / _TICK if stat else 0.0


def family_cpu(pid: int) -> float:
    """CPU seconds of a process, of its children, and of those children that have ended."""
    stat = _stat(pid)
    children = [int(name) for name in os.listdir("/proc") if name.isdigit()] if stat else []
    ended = (int(stat[13]) + int(stat[14])) / _TICK if stat else 0.0
    return ended + sum(_cpu(one) for one in children if one == pid or _stat(one)[1:2] == [str(pid)])


def _resident(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(match[1]) * 1024.0 if match else 0.0
