"""Moves the queues of an application to another store for one test, and back."""

import secrets
from typing import Any

from redisjobs import sync
from redisjobs.client.registry import Registry


def checked_queue(queue: Registry) -> Registry:
    """Return a queue; raise a TypeError for anything else."""
    if not isinstance(queue, Registry):
        raise TypeError(f"{queue!r:.100} is not a queue: give a JobQueue, or several")
    return queue


class Moves:
    """The queues that a test has moved, with what they were before."""

    def __init__(self) -> None:
        self._before: list[tuple[Registry, dict[str, Any]]] = []

    def move(self, queue: Registry, where: Any, name: str = "") -> None:
        """Move a queue to another store, with a name also to another queue there."""
        before = dict(vars(queue))
        queue.name = name or queue.name
        queue._connect(where)
        now = vars(queue)
        self._before.append((queue, {key: value for key, value in before.items() if now[key] is not value}))

    def undo(self) -> None:
        """Give all queues back their stores, with the connections that they had."""
        while self._before:
            queue, before = self._before.pop()
            if isinstance(queue, sync.JobQueue):
                queue.close()  # ends its thread, if it has waited for results
            vars(queue).update(before)


class JobsServer:
    """A real server for one test; see the fixture `jobs_server`.

    Attributes:
        url: Where the server is.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._moves = Moves()
        self._suffix = secrets.token_hex(6)

    def use(self, *queues: Registry) -> None:
        """Move queues to the server until the end of the test, each under a new name.

        Raises:
            TypeError: One of them is not a queue.
        """
        for queue in [checked_queue(each) for each in queues]:  # all, before one is moved
            name = queue.name
            if not name.endswith(self._suffix):
                self._moves.move(queue, self.url, f"{name[:180]}-{self._suffix}")

    def close(self) -> None:
        """Move the queues back."""
        self._moves.undo()
