"""What a worker reports to systemd: on a socket like systemd's, from real processes."""

import os
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from fleet import Fleet
from store import eventually

from redisjobs.cli.notify import Notifier
from redisjobs.worker.settings.health import Health

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="needs Linux, as systemd does")

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Manager:
    """A service manager's end: it keeps each message with the process that sent it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[tuple[int, list[str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            text, ancillary, *_ = self._socket.recvmsg(4096, 64)
            if text == b"end":
                return
            pid, _, _ = struct.unpack("3i", ancillary[0][2])
            self.messages.append((pid, text.decode().split("\n")))

    @property
    def lines(self) -> list[str]:
        return [line for _, lines in self.messages for line in lines]

    def end(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as us:
            us.sendto(b"end", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


class Worker:
    """A worker's health, which a test changes."""

    def __init__(self) -> None:
        self.now = Health(True, False, "starting")

    def health(self) -> Health:
        return self.now


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.now = Health(True, True, "its manager is gone")  # which a report finds out, and is the last one
    for thread in threading.enumerate():
        if thread.name == "redisjobs notify":
            thread.join()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, worker: Worker) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify") if request.param == "file" else f"@redisjobs-{uuid.uuid4().hex}")
    yield manager
    manager.end()


@pytest.fixture
def unit(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment that systemd gives this process, with a watchdog of 40 ms."""
    for name, value in zip(VARIABLES, (manager.address, "40000", str(os.getpid())), strict=True):
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.anyio
async def test_a_worker_is_ready_once_it_takes_jobs_and_keeps_the_watchdog_quiet_while_it_is_live(
    manager: Manager, unit: pytest.MonkeyPatch, worker: Worker
) -> None:
    Notifier().follow(worker.health)
    await eventually(lambda: manager.lines.count("WATCHDOG=1") > 2)
    assert "STATUS=starting" in manager.lines
    assert "READY=1" not in manager.lines

    worker.now = Health(True, True, "takes jobs")
    await eventually(lambda: "READY=1" in manager.lines)
    worker.now = Health(False, False, "the event loop is blocked")
    await eventually(lambda: "STATUS=the event loop is blocked" in manager.lines)
    before = manager.lines.count("WATCHDOG=1")
    worker.now = Health(False, False, "still\nWATCHDOG=1")
    await eventually(lambda: r"STATUS=still\nWATCHDOG=1" in manager.lines)
    assert manager.lines.count("WATCHDOG=1") == before
    worker.now = Health(True, True, "takes jobs again")

    await eventually(lambda: manager.lines.count("WATCHDOG=1") > before)
    assert manager.lines.count("READY=1") == 1
    assert not any(name in os.environ for name in VARIABLES), "no other process may use them"


@pytest.mark.anyio
async def test_the_watchdog_of_another_process_is_not_ours_and_a_worker_that_stops_does_not_get_ready(
    manager: Manager, unit: pytest.MonkeyPatch, worker: Worker
) -> None:
    unit.setenv("WATCHDOG_PID", "1")
    notifier = Notifier()
    notifier.stopping()
    worker.now = Health(True, True, "takes jobs")
    notifier.follow(worker.health)

    await eventually(lambda: "STATUS=takes jobs" in manager.lines)

    assert manager.lines == ["STOPPING=1", "STATUS=takes jobs"]


@pytest.mark.anyio
async def test_what_a_busy_systemd_did_not_take_is_reported_again(
    unit: pytest.MonkeyPatch, worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unit.setattr("redisjobs.cli.notify._TIMEOUT", 0.01)
    unit.setenv("NOTIFY_SOCKET", str(tmp_path / "busy"))
    worker.now = Health(True, True, "takes jobs")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as busy,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        busy.bind(str(tmp_path / "busy"))
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"of another unit", busy.getsockname())
        notifier = Notifier()
        assert isinstance(notifier._send("WATCHDOG=1"), TimeoutError)
        notifier.follow(worker.health)
        await anyio.sleep(0.05)
        busy.setblocking(False)
        lines = set[str]()

        def receives() -> bool:
            with suppress(BlockingIOError):
                lines.update(busy.recv(4096).decode().split("\n"))
            return lines >= {"READY=1", "STATUS=takes jobs", "WATCHDOG=1"}

        await eventually(receives)
    assert not caplog.records


@pytest.mark.anyio
async def test_without_systemd_or_with_a_socket_that_is_gone_a_worker_runs_on(
    monkeypatch: pytest.MonkeyPatch, worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().follow(worker.health)
    Notifier().stopping()
    assert "redisjobs notify" not in [thread.name for thread in threading.enumerate()]

    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notifier = Notifier()
    notifier.follow(worker.health)
    notifier.stopping()

    await eventually(lambda: len(caplog.records) == 1)
    assert "can't be notified" in caplog.text


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--processes", "2")])
@pytest.mark.parametrize("manager", ["file"], indirect=True)
async def test_the_main_process_of_a_unit_reports_its_start_its_life_and_its_stop(
    fleet: Fleet, manager: Manager, options: tuple[str, ...]
) -> None:
    fleet.env |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
    main = fleet.command(*options)
    await eventually(lambda: "READY=1" in manager.lines, within=20)
    await eventually(lambda: "runs queue" in (fleet.folder / "log").read_text())
    seen = manager.lines.count("WATCHDOG=1")
    await eventually(lambda: manager.lines.count("WATCHDOG=1") > seen)

    main.terminate()

    await eventually(lambda: "STOPPING=1" in manager.lines)
    assert main.wait(20) == 0
    assert {pid for pid, _ in manager.messages} == {main.pid}


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("manager", ["file"], indirect=True)
async def test_a_stop_that_an_operator_asks_for_is_reported_too(fleet: Fleet, manager: Manager) -> None:
    fleet.env |= {"NOTIFY_SOCKET": manager.address}
    main = fleet.command()
    await eventually(lambda: "READY=1" in manager.lines, within=20)

    fleet.queue.control.stop_worker(fleet.queue.control.workers()[0])

    assert main.wait(20) == 0
    await eventually(lambda: "STOPPING=1" in manager.lines)


def test_an_operators_stop_is_reported_before_a_worker_without_jobs_has_left() -> None:
    code = """
import time
from redisjobs.cli.shutdown import ForcedEnd

shutdown = ForcedEnd(1, stopping=lambda: time.sleep(0.2) or print("reported", flush=True))
shutdown.note_asked()
shutdown.leave(0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert ended.stdout == "reported\n"
