"""What a scheduler knows: the schedules it fires, the other schedulers, the server's clock."""

import random
import time
from secrets import token_hex

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Unavailable
from redisjobs.scheduler.plan import Plan

logger = Log("redisjobs.scheduler")

_FIRST = 8  # about this many schedulers fire at a slot, however many there are
_LATER_MS = 1000  # the others look this much later, up to twice that
NEVER = float("-inf")


class Known:
    """What one scheduler knows."""

    def __init__(self, queue: Registry) -> None:
        self.queue = queue
        self.id = token_hex(8)
        self.plans: dict[str, Plan] = {}  # that it fires, by name
        self.change: int | None = None  # number of the last change of a schedule that it read; None: read all
        self.is_behind = True  # there may be changes to read
        self.fingerprints = dict[str, str]()  # of the schedules that its code declares, by name
        self.release = ""  # the same for all schedulers that declare the same
        self.others = set[str]()  # names of these that the store does not have from this release
        self.began_ms = 0  # by the server's clock; 0: it has not declared anything yet
        self.present = 0  # schedulers of this release
        self.said_at = self.declared_at = NEVER  # that it is there, and all it declares; by the monotonic clock
        self.trouble = ""  # what the store said, if nothing can be fired
        self.in_worker = False  # which logs that the server is unavailable
        self._has_warned = False
        self.lot = random.random()  # the share of the schedulers that fires before this one
        self._ahead = 0.0  # the server's clock less this process' monotonic one, ms
        self._said: dict[str, str] = {}  # by schedule, what the log has last

    @property
    def now_ms(self) -> float:
        """The time by the server's clock, or a little earlier."""
        return time.monotonic() * 1000 + self._ahead

    @property
    def leaves_slots(self) -> bool:
        """Whether enough other schedulers fire at a slot."""
        return self.lot * self.present >= _FIRST

    @property
    def past_ms(self) -> float:
        """The time, by the server's clock, up to which this scheduler has to see to slots now."""
        return self.now_ms - (_LATER_MS * (1 + self.lot) if self.leaves_slots else 0)

    def hear(self, server_ms: float) -> None:
        """Take in the server's clock: the store has answered."""
        self._ahead = server_ms - time.monotonic() * 1000
        self.trouble = ""
        if self._has_warned:
            self._has_warned = False
            logger.info("the schedules of queue '%s' go on", self.queue.name)

    def failed(self, error: DriverError) -> None:
        """Note that the store did not answer; the log has it once."""
        self.trouble = str(error)
        if self._has_warned or (self.in_worker and isinstance(error, Unavailable)):
            return  # a worker logs one line for all that its server's absence stops
        self._has_warned = True
        where = f"'{self.queue.name}' at {self.queue.driver.where}"
        logger.warning("the schedules of queue %s wait for the server: %s", where, error)

    def say(self, name: str, what: str) -> None:
        """Log what is wrong with a schedule, once for as long as it stays so; "" says that nothing is."""
        if not what:
            self._said.pop(name, None)
        elif self._said.get(name) != what:
            self._said[name] = what
            logger.warning("schedule '%s' of queue '%s': %s", visible(name), self.queue.name, what)

    def say_again(self) -> None:
        """At the next look say that it is there, declare what the store has from others, and read what is new."""
        self.said_at, self.is_behind = NEVER, True

    def begin_again(self) -> None:
        """At the next look declare all, and then read all: the store has an older state, or none."""
        self.declared_at, self.change = NEVER, None
        self.say_again()
