"""What the server's ACL lets the page's user of Redis do."""

import time

from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Forbidden
from redisjobs.model.changes import Resume
from redisjobs.web.board.access import Verb

_REFUSED_FOR = 60.0  # seconds for which an action that the server's ACL refused is not shown


class Rights:
    """What the server's ACL lets this user do on a queue, as far as that is known."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._refused: dict[Verb, float] = {}  # until when, by the monotonic clock
        self._may_write: bool | None = None
        self._tried_at = 0.0

    @property
    def is_read_only(self) -> bool:
        """Whether this user may only read."""
        return self._may_write is False

    async def allowed(self, granted: frozenset[Verb]) -> frozenset[Verb]:
        """Return the granted verbs without those that the ACL refuses."""
        if not granted:
            return granted
        now = time.monotonic()
        if self._may_write is None or now > self._tried_at + _REFUSED_FOR:
            await self._try_writing()
            self._tried_at = now
        if not self._may_write:
            return frozenset()
        return frozenset(verb for verb in granted if self._refused.get(verb, 0) <= now)

    def refused(self, verb: Verb) -> None:
        """Note that the ACL refused an action."""
        self._refused[verb] = time.monotonic() + _REFUSED_FOR

    async def _try_writing(self) -> None:
        """Find out whether this user may write, by a change that changes nothing: no such name is paused."""
        try:
            await self._registry.driver.change(Resume("redisjobs:may-write"))
            self._may_write = True
        except Forbidden:
            self._may_write = False
        except DriverError:  # the page's own read says more
            self._may_write = None
