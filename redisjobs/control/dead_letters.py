"""The methods of the async and the sync queue about dead letters: counting, requeueing and deleting them."""

from typing import Any, Unpack

from redisjobs.client import operations
from redisjobs.client.calls import Calls, SyncCalls
from redisjobs.client.checks import id_of
from redisjobs.client.operations import FilterOptions
from redisjobs.control.requeuing import GO_ON, requeue
from redisjobs.model.changes import Delete
from redisjobs.model.info import DeadGroup
from redisjobs.model.job import PushedJob
from redisjobs.model.transitions import Reply


class DeadLetters(Calls):
    """The calls of an async queue about its dead letters."""

    async def dead_groups(self) -> list[DeadGroup]:
        """Count the dead letters of each kind, the largest groups first.

        Dead letters with the same fingerprint are of one kind; without a fingerprint, those with the same reason.
        Redis counts them as they come and go. This reads the newest ten of each kind, in steps.
        """
        return await self._do(operations.dead_groups())

    async def requeue(
        self,
        job: str | PushedJob,
        *,
        parameters: Any = None,
        ended: bool = False,
        unique: bool = True,
        from_step: str | None = GO_ON,
    ) -> Reply | None:
        """Make a dead letter ready again, under its id, with all its attempts.

        If it has saved steps, it goes on where it stopped. New parameters do not change what is saved.

        A child stays a child while its parent waits for others of its step, and the parent waits for it, too. If
        the parent has gone on, or has ended, it gets nothing of what the child comes to now.

        Args:
            job: Its id, or its handle.
            parameters: New parameters: an instance of the handler's type, or a dict of its fields. If no handler
                is registered here, any value that JSON can hold. None keeps the parameters.
            ended: Also run a completed or cancelled job again, if the queue keeps such jobs: see `Retention`.
            unique: Give it its unique key again, if it had one until its end. False: run it without a key.
            from_step: The key of a step that `steps` lists: the job forgets it and the steps saved after it, and
                its checkpoint. None: it forgets all. Defaults to nothing: the job goes on where it stopped.

        Returns:
            OK: it is ready. INDEPENDENT: it is ready; but it was a child, and is a job by itself now, because its
            parent had gone on. None: there is no such job.

        Raises:
            EncodeError: The parameters don't fit their type, or are too large. The job stays as it is.
            UniqueConflict: Another job holds its unique key; `job_id` names it. The job stays as it is.
            DecodeError: The entry has more fields than a script can move. It stays a dead letter.
            ValueError: It has not saved the step `from_step`; the error says which it has. It stays as it is.
        """
        return await self._do(requeue(job, parameters, ended, unique, from_step, self._edited))

    async def delete(self, job: str | PushedJob) -> bool:
        """Delete a dead letter, or a job that ended and was kept; return whether there was one."""
        return await self._ask(Delete(id_of(job))) is Reply.OK

    async def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Make all matching dead letters ready again, the newest first. One that dies again meanwhile stays dead.

        It works in steps. If the connection fails, the finished steps stay done, and a new call does the rest.
        Dead letters whose unique key another job holds stay; so of several with one key, the newest is requeued.
        Those with more fields than a script can move stay, too.

        Args:
            rate: How many become due: `100/s`, `20/m` or `5/h`. The rest are delayed, each with its due time, and
                this call does not wait for them. Defaults to all at once.
            options: Filters for the dead letters; see `FilterOptions`. Defaults to all.

        Returns:
            How many were requeued. After a lost reply the number may be too low.
        """
        return await self._do(operations.requeue_all(options, rate))

    async def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Delete all matching dead letters; see `requeue_all` for the options and the returned number."""
        return await self._do(operations.delete_all(options))


class SyncDeadLetters(SyncCalls):
    """The same calls of a sync queue."""

    def dead_groups(self) -> list[DeadGroup]:
        """Count the dead letters of each kind; see `redisjobs.JobQueue.dead_groups`."""
        return self._do(operations.dead_groups())

    def requeue(
        self,
        job: str | PushedJob,
        *,
        parameters: Any = None,
        ended: bool = False,
        unique: bool = True,
        from_step: str | None = GO_ON,
    ) -> Reply | None:
        """Make a dead letter ready again; see `redisjobs.JobQueue.requeue`."""
        return self._do(requeue(job, parameters, ended, unique, from_step, self._edited))

    def delete(self, job: str | PushedJob) -> bool:
        """Delete a dead letter, or a job that ended and was kept; return whether there was one."""
        return self._ask(Delete(id_of(job))) is Reply.OK

    def requeue_all(self, *, rate: str | None = None, **options: Unpack[FilterOptions]) -> int:
        """Make all matching dead letters ready again; see `redisjobs.JobQueue.requeue_all`."""
        return self._do(operations.requeue_all(options, rate))

    def delete_all(self, **options: Unpack[FilterOptions]) -> int:
        """Delete all matching dead letters; see `redisjobs.JobQueue.delete_all`."""
        return self._do(operations.delete_all(options))
