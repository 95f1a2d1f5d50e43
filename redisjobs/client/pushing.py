"""How a queue pushes jobs, async and sync: over its own connections, or in a transaction of the caller's."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from redisjobs.client.calls import Calls, SyncCalls
from redisjobs.client.push import Conflict, MakeHandle, PushCall
from redisjobs.client.registry import Registry
from redisjobs.events.middleware import NO_CALLS, before_push, before_push_sync
from redisjobs.model.job import PushedJob
from redisjobs.model.transitions import NewJob

Handle = TypeVar("Handle", bound=PushedJob)


class Pushing(Generic[Handle]):
    """The pushes of an async queue; `handle` makes the handles that they return."""

    def __init__(self, queue: Registry, calls: Calls, handle: MakeHandle[Handle]) -> None:
        self._queue, self._calls, self._handle = queue, calls, handle

    async def push(
        self, jobs: Sequence[NewJob], conflicts: list[Conflict], *, prepared: bool = False
    ) -> list[Handle]:
        """Push jobs in one call to the store; keys that other jobs hold are added to `conflicts`."""
        queue = self._queue
        ends = await before_push(queue._on_push, jobs, queue.name) if queue._on_push else NO_CALLS
        try:
            push = PushCall(jobs, queue.deadline, prepared=prepared)
            answers = await self._calls.call(lambda: queue.driver.push(jobs, repeated=push.repeated), push)
            handles = push.handles(answers, self._handle)
            queue._publish_pushed(handles)
            conflicts += push.conflicts
        except BaseException as error:
            queue._publish_failed(error, ends)
            raise
        if ends is not NO_CALLS:
            ends.tell([bool(handle.added) for handle in handles])
        return handles

    async def push_within(self, connection: Any, jobs: Sequence[NewJob]) -> list[Handle]:
        """Push jobs in the transaction of a connection."""
        from redisjobs.client import within  # here: most producers write to no outbox

        queue = self._queue
        transaction = within.transaction(connection, is_async=True)
        native = getattr(queue.driver, "within", None)  # the queue itself is in a database
        ends = await before_push(queue._on_push, jobs, queue.name) if queue._on_push else NO_CALLS
        writes = within.Writes(jobs)
        with writes.explaining(lambda error: queue._publish_failed(error, ends)):
            rows = await self._calls.call(lambda: native(jobs)) if native else within.to_outbox(queue.name, jobs)
            for writing in rows:
                writes.add(writing, await transaction.run(writing.statement, *writing.values))
        writes.follow(transaction)
        return writes.handles(self._handle, ends)


class SyncPushing(Generic[Handle]):
    """The pushes of a sync queue."""

    def __init__(self, queue: Registry, calls: SyncCalls, handle: MakeHandle[Handle]) -> None:
        self._queue, self._calls, self._handle = queue, calls, handle

    def push(self, jobs: Sequence[NewJob], conflicts: list[Conflict], *, prepared: bool = False) -> list[Handle]:
        """Push jobs in one call to the store; keys that other jobs hold are added to `conflicts`."""
        queue = self._queue
        ends = before_push_sync(queue._on_push, jobs, queue.name) if queue._on_push else NO_CALLS
        try:
            push = PushCall(jobs, queue.deadline, prepared=prepared)
            answers = self._calls.call(
                lambda until: queue._store.push(jobs, repeated=push.repeated, until=until), push
            )
            handles = push.handles(answers, self._handle)
            queue._publish_pushed(handles)
            conflicts += push.conflicts
        except BaseException as error:
            queue._publish_failed(error, ends)
            raise
        if ends is not NO_CALLS:
            ends.tell([bool(handle.added) for handle in handles])
        return handles

    def push_within(self, connection: Any, jobs: Sequence[NewJob]) -> list[Handle]:
        """Push jobs in the transaction of a connection."""
        from redisjobs.client import within  # here: most producers write to no outbox

        queue = self._queue
        transaction = within.transaction(connection, is_async=False)
        native = getattr(queue._store, "within", None)  # the queue itself is in a database
        ends = before_push_sync(queue._on_push, jobs, queue.name) if queue._on_push else NO_CALLS
        writes = within.Writes(jobs)
        with writes.explaining(lambda error: queue._publish_failed(error, ends)):
            rows = (
                self._calls.call(lambda until: native(jobs, until=until))
                if native
                else within.to_outbox(queue.name, jobs)
            )
            for writing in rows:
                writes.add(writing, transaction.run(writing.statement, *writing.values))
        writes.follow(transaction)
        return writes.handles(self._handle, ends)
