"""A worker is cut off for longer than its lease: its job runs elsewhere, and it may not settle it any more."""

import logging
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from anyio.abc import TaskGroup
from fleet import WORKER, Fleet
from store import RedisStore, eventually

from redisjobs import JobContext, JobQueue, Worker
from redisjobs.local import server
from redisjobs.model.job import State
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio

LEASE = 0.6


@dataclass
class Carry:
    job_name: ClassVar[str] = "Carry"


class Side:
    """One worker of the queue, and what happened to its only job."""

    def __init__(self, worker_id: str, url: str, queue_name: str) -> None:
        self.queue = JobQueue(url, queue_name)
        self.worker = Worker(self.queue, lease=LEASE, worker_id=worker_id)
        self.started, self.may_end = anyio.Event(), anyio.Event()
        self.came_to = ""

        @self.queue.register(Carry)
        async def carry(parameters: Carry, context: JobContext) -> None:
            self.started.set()
            try:
                await self.may_end.wait()
                self.came_to = "done"
            finally:
                self.came_to = self.came_to or "cancelled"


class Network:
    """Two workers of one queue; only the first one's way to the server leads through the proxy."""

    def __init__(self, proxy: Proxy, store: RedisStore, tasks: TaskGroup) -> None:
        self.proxy, self.store, self.tasks = proxy, store, tasks
        port = store.url.rpartition(":")[2]
        far = store.url.replace(f"{HOST}:{port}", f"{HOST}:{proxy.port}/0")
        self.cut_off = Side("cut-off", far, store.queue_name)
        self.other = Side("other", store.url, store.queue_name)

    async def cut(self) -> str:
        """Let the first worker begin the job, cut it off, and let the other begin it too; the job's id."""
        self.tasks.start_soon(self.cut_off.worker.run)
        job_id = (await self.other.queue.push(Carry())).id
        await self.cut_off.started.wait()
        self.proxy.black_hole(True)
        self.tasks.start_soon(self.other.worker.run)
        await self.other.started.wait()
        return job_id

    async def end(self) -> None:
        for side in (self.cut_off, self.other):
            side.worker.stop()
            await side.queue.aclose()

    def says(self, log: pytest.LogCaptureFixture, job_id: str) -> bool:
        """Whether it is in the log that this job's lease was lost."""
        return any(
            record.levelno >= logging.WARNING and job_id in record.message and "lease was" in record.message
            for record in log.records
        )


async def test_a_handler_that_ends_while_cut_off_settles_nothing_later(
    proxy: Proxy, redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with anyio.create_task_group() as tasks:
        network = Network(proxy, redis_store, tasks)
        job_id = await network.cut()

        network.cut_off.may_end.set()  # its settlement goes nowhere
        network.other.may_end.set()
        await eventually(lambda: redis_store.located() == {})
        proxy.black_hole(False)
        proxy.drop_all()
        await eventually(lambda: network.says(caplog, job_id))
        counts = await network.other.queue.control.counts()
        await network.end()

    assert (network.cut_off.came_to, network.other.came_to) == ("done", "done")
    totals = {name: counts.totals.get(name) for name in ("pushed", "completed", "reclaimed", "retried", "dead")}
    assert totals == {"pushed": 1, "completed": 1, "reclaimed": 1, "retried": 0, "dead": 0}


async def test_a_settlement_sent_while_the_other_still_runs_the_job_takes_nothing_from_it(
    proxy: Proxy, redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with anyio.create_task_group() as tasks:
        network = Network(proxy, redis_store, tasks)
        job_id = await network.cut()

        network.cut_off.may_end.set()
        proxy.black_hole(False)
        proxy.drop_all()
        await eventually(lambda: network.says(caplog, job_id))
        ((_, holder, deliveries),) = redis_store.pending()
        network.other.may_end.set()
        await eventually(lambda: redis_store.located() == {})
        counts = await network.other.queue.control.counts()
        await network.end()

    assert (holder.partition(":")[0], deliveries) == ("other", 2)
    assert counts.totals["completed"] == 1


async def test_a_handler_that_still_runs_when_its_worker_is_back_is_cancelled_and_the_loss_is_logged(
    proxy: Proxy, redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with anyio.create_task_group() as tasks:
        network = Network(proxy, redis_store, tasks)
        job_id = await network.cut()

        proxy.black_hole(False)
        proxy.drop_all()
        await eventually(lambda: network.cut_off.came_to)
        network.other.may_end.set()
        await eventually(lambda: redis_store.located() == {})
        counts = await network.other.queue.control.counts()
        await network.end()

    assert (network.cut_off.came_to, network.other.came_to) == ("cancelled", "done")
    assert counts.totals["completed"] == 1
    assert network.says(caplog, job_id)


# A network of its own


class Cable:
    """A network namespace that one virtual cable connects to this machine."""

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.space, self.here, self.there = f"rj-{tag}", f"rja{tag}", f"rjb{tag}"
        net = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}"
        self.near, self.far = f"{net}.1", f"{net}.2"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    @contextmanager
    def laid(self) -> Iterator[None]:
        self.ip("netns", "add", self.space)
        try:
            self.ip("link", "add", self.here, "type", "veth", "peer", self.there, "netns", self.space)
            self.ip("addr", "add", f"{self.near}/30", "dev", self.here)
            self.ip("link", "set", self.here, "up")
            self.ip("-n", self.space, "addr", "add", f"{self.far}/30", "dev", self.there)
            self.ip("-n", self.space, "link", "set", self.there, "up")
            yield
        finally:
            self.ip("netns", "del", self.space)  # and its end of the cable, so the cable

    def plug(self, into: bool) -> None:
        self.ip("-n", self.space, "link", "set", self.there, "up" if into else "down")


@pytest.fixture
def cable() -> Iterator[Cable]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    cable = Cable()
    try:
        with cable.laid():
            yield cable
    except subprocess.CalledProcessError as error:
        if error.cmd[1] not in ("netns", "link"):
            raise
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")


def far_worker(fleet: Fleet, cable: Cable, url: str) -> "subprocess.Popen[bytes]":
    """A worker at the cable's far end."""
    command = [
        "ip",
        "netns",
        "exec",
        cable.space,
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = ['']\n{WORKER}",
    ]
    env = {**fleet.env, "REDISJOBS_URL": url.replace(HOST, cable.near)}
    with (fleet.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "id=cut-off", "lease=0.6"], cwd=fleet.folder, env=env, stdout=log, stderr=log
        )
    fleet.processes.append(process)
    return process


@pytest.mark.slow
async def test_a_worker_whose_cable_is_pulled_for_longer_than_its_lease_settles_nothing(
    cable: Cable, tmp_path: Path, queue_name: str
) -> None:
    password = secrets.token_hex(8)
    with server.start(options=["--bind", f"{HOST} {cable.near}", "--requirepass", password]) as own:
        url = own.url.replace("//", f"//:{password}@")
        fleet = Fleet(tmp_path, url, queue_name)
        try:
            cut_off = far_worker(fleet, cable, url)
            await fleet.at_work("cut-off")
            fleet.push("a", seconds=1.2)
            await eventually(lambda: fleet.labels("start") == {"a": 1}, within=20)

            cable.plug(False)
            other = fleet.worker("other", lease=0.6)
            await eventually(lambda: len(fleet.recording("end")) == 2, within=20)
            cable.plug(True)

            await eventually(lambda: b"lease was" in (tmp_path / "log").read_bytes(), within=20)
            other.terminate()
            await eventually(lambda: other.poll() is not None, within=20)
            fleet.push("after")
            await eventually(lambda: fleet.labels("end") == {"a": 2, "after": 1}, within=20)
            await eventually(lambda: fleet.queue.control.counts().totals.get("completed") == 2, within=20)
            *before, (label, anew, attempt, deliveries) = fleet.recording("end")
            assert before == [["a", "cut-off", "1", "1"], ["a", "other", "1", "2"]]
            assert (label, anew, attempt, deliveries) == ("after", "cut-off", "1", "1")
            assert b"this worker is now cut-off:" in (tmp_path / "log").read_bytes()
            assert not any(fleet.queue.control.jobs(state) for state in State)
            assert cut_off.poll() is None
        finally:
            fleet.end()
