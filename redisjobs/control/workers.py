"""The methods of the async and the sync queue about workers: an operator lists them, and asks them to stop."""

from redisjobs.client import operations
from redisjobs.client.calls import Calls, SyncCalls
from redisjobs.model.changes import Wish
from redisjobs.model.info import WorkerInfo
from redisjobs.model.transitions import Reply


class Workers(Calls):
    """The calls of an async queue about its workers."""

    async def workers(self) -> list[WorkerInfo]:
        """List the workers of this queue by id, as they were at their last heartbeats."""
        return await self._do(operations.workers())

    async def quiet_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to claim no more jobs of this queue, until `resume_worker`. Running jobs go on.

        The worker obeys with its next heartbeat, mostly within milliseconds. Jobs that it has claimed and not
        begun go back to the queue. It still fires schedules, and takes jobs of its other queues.

        Args:
            worker: The worker, or its id.

        Returns:
            OK: it was asked. STOPPING: it stops already. NOT_FOUND: there is no such worker.
        """
        return await self._do(operations.ask_worker(worker, Wish.QUIET))

    async def resume_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a quiet worker to claim jobs again; see `quiet_worker` for the replies."""
        return await self._do(operations.ask_worker(worker, Wish.RESUME))

    async def stop_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to stop as it does after SIGTERM: its running jobs may finish within its grace.

        It leaves all its queues, and `Worker.run` returns. `redisjobs worker` ends its process with exit status 0,
        and with `--processes` no other process takes its place. A service manager may start another one. A stop
        can't be taken back.

        Args:
            worker: The worker, or its id.

        Returns:
            OK: it was asked. NOT_FOUND: there is no such worker.
        """
        return await self._do(operations.ask_worker(worker, Wish.STOP))


class SyncWorkers(SyncCalls):
    """The same calls of a sync queue."""

    def workers(self) -> list[WorkerInfo]:
        """List the workers of this queue by id, as they were at their last heartbeats."""
        return self._do(operations.workers())

    def quiet_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to claim no more jobs of this queue; see `redisjobs.JobQueue.quiet_worker`."""
        return self._do(operations.ask_worker(worker, Wish.QUIET))

    def resume_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a quiet worker to claim jobs again; see `redisjobs.JobQueue.quiet_worker` for the replies."""
        return self._do(operations.ask_worker(worker, Wish.RESUME))

    def stop_worker(self, worker: str | WorkerInfo) -> Reply:
        """Ask a worker to stop; see `redisjobs.JobQueue.stop_worker`."""
        return self._do(operations.ask_worker(worker, Wish.STOP))
