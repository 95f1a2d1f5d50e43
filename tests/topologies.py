"""The smallest cluster and the smallest sentinel, and jobs that run at what a user gives for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest

from redisjobs import DriverError, JobQueue, Worker
from redisjobs.local import server
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs_proof.torture.topology import _Sentinel, ask, until

HOST = server.HOST


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int


@contextmanager
def one_node(*options: str, slots: bool = True, binary: server.Binary | None = None) -> Iterator[server.Server]:
    """A cluster of one node, which serves no keys in the first two seconds; see `ready`."""
    words = ["--cluster-enabled", "yes", "--cluster-port", str(server.free_port()), *options]
    with server.start(binary, options=words) as node:
        if slots:
            ask(node, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        yield node


def ready(node: server.Server) -> server.Server:
    """Wait until a cluster of one node serves keys."""
    until(lambda: b"cluster_state:ok" in ask(node, "CLUSTER", "INFO"), "the cluster is ok")
    return node


@contextmanager
def one_sentinel(master: server.Server, binary: server.Binary | None = None) -> Iterator[server.Server]:
    """A sentinel that watches a server as `jobs`."""
    with _Sentinel(binary or server.find(), None, server.free_port(), []) as sentinel:
        ask(sentinel, "SENTINEL", "MONITOR", "jobs", HOST, str(master.port), "1")
        yield sentinel


async def run_jobs(where: Any, queue_name: str) -> None:
    """Push, wait, run and look, over each kind of connection that there is."""
    async with JobQueue(where, queue_name) as queue:
        worker = Worker(queue, lease=1.5)

        @queue.register(Add, keep_result=60)
        async def add(add: Add) -> int:
            return add.a + 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            assert await queue.run(Add(1), timeout=10) == 2
            with SyncJobQueue(where, queue_name) as producer:
                job = await anyio.to_thread.run_sync(producer.push, Add(2))
                assert await queue.result(job.id, timeout=10) == 3
                assert [each.worker_id for each in producer.control.workers()] == [worker.worker_id]
            worker.stop()
        assert (await queue.control.counts()).totals["completed"] == 2


def refusal(where: Any, queue_name: str, deadline: float = 0.3) -> DriverError:
    """The error of a push, which has added nothing."""
    with SyncJobQueue(where, queue_name, deadline=deadline) as queue, pytest.raises(DriverError) as caught:
        queue.push(Add(1))
    assert "\n" not in str(caught.value)
    return caught.value
