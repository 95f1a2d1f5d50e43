"""How a queue pushes jobs, async and sync: over its own connections, or in a transaction of the caller's."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from redisjobs.client.calls import Calls, SyncCalls
from redisjobs.client.push import Conflict, Push
from redisjobs.client.registry import Registry
from redisjobs.events.middleware import NO_CALLS, before_push, before_push_sync
from redisjobs.model.job import PushedJob
from redisjobs.model.transitions import NewJob

Handle = TypeVar("Handle", bound=PushedJob)


class _Handles(Registry, Generic[Handle]):
    @abstractmethod
    def handle(
        self, job_id: str, name: str, added: bool | None, replaced: bool = False, is_other: bool = False
    ) -> Handle:
        """Return the handle of a job on this queue; see `PushedJob`."""


class Pushing(Calls, _Handles[Handle]):
    """The pushes of an async queue."""

    async def _push(
        self, jobs: Sequence[NewJob], conflicts: list[Conflict], *, prepared: bool = False
    ) -> list[Handle]:
        ends = await before_push(self.on_push, jobs, self.name) if self.on_push else NO_CALLS
        try:
            push = Push(jobs, self.deadline, prepared=prepared)
            answers = await self._call(lambda: self.driver.push(jobs, repeated=push.repeated), push)
            handles = push.handles(answers, self.handle)
            self._publish_pushed(handles)
            conflicts += push.conflicts
        except BaseException as error:
            self._publish_failed(error, ends)
            raise
        if ends is not NO_CALLS:
            ends.tell([bool(handle.added) for handle in handles])
        return handles

    async def _push_within(self, connection: Any, jobs: Sequence[NewJob]) -> list[Handle]:
        from redisjobs.client import within  # here: most producers write to no outbox

        transaction = within.transaction(connection, is_async=True)
        native = getattr(self.driver, "within", None)  # the queue itself is in a database
        ends = await before_push(self.on_push, jobs, self.name) if self.on_push else NO_CALLS
        writes = within.Writes(jobs)
        with writes.explaining(lambda error: self._publish_failed(error, ends)):
            rows = await self._call(lambda: native(jobs)) if native else within.to_outbox(self.name, jobs)
            for writing in rows:
                writes.add(writing, await transaction.run(writing.statement, *writing.values))
        writes.follow(transaction)
        return writes.handles(self.handle, ends)


class SyncPushing(SyncCalls, _Handles[Handle]):
    """The pushes of a sync queue."""

    def _push(self, jobs: Sequence[NewJob], conflicts: list[Conflict], *, prepared: bool = False) -> list[Handle]:
        ends = before_push_sync(self.on_push, jobs, self.name) if self.on_push else NO_CALLS
        try:
            push = Push(jobs, self.deadline, prepared=prepared)
            answers = self._call(lambda until: self._store.push(jobs, repeated=push.repeated, until=until), push)
            handles = push.handles(answers, self.handle)
            self._publish_pushed(handles)
            conflicts += push.conflicts
        except BaseException as error:
            self._publish_failed(error, ends)
            raise
        if ends is not NO_CALLS:
            ends.tell([bool(handle.added) for handle in handles])
        return handles

    def _push_within(self, connection: Any, jobs: Sequence[NewJob]) -> list[Handle]:
        from redisjobs.client import within  # here: most producers write to no outbox

        transaction = within.transaction(connection, is_async=False)
        native = getattr(self._store, "within", None)  # the queue itself is in a database
        ends = before_push_sync(self.on_push, jobs, self.name) if self.on_push else NO_CALLS
        writes = within.Writes(jobs)
        with writes.explaining(lambda error: self._publish_failed(error, ends)):
            rows = (
                self._call(lambda until: native(jobs, until=until))
                if native
                else within.to_outbox(self.name, jobs)
            )
            for writing in rows:
                writes.add(writing, transaction.run(writing.statement, *writing.values))
        writes.follow(transaction)
        return writes.handles(self.handle, ends)
