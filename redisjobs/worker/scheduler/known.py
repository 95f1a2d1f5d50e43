"""What a scheduler knows: the schedules it fires, the other schedulers, the server's clock."""

import random
import time
from secrets import token_hex

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Unavailable
from redisjobs.worker.scheduler.plan import Plan

logger = Log("redisjobs.scheduler")

_FIRST = 8  # about how many schedulers fire at a slot, of any number
_LATER_MS = 1000  # the others look this much later, or up to twice as much
NEVER = float("-inf")


class KnownSchedules:
    """What a scheduler knows of its queue: the stored schedules, and when it last declared its own."""

    def __init__(self, queue: Registry) -> None:
        self.queue = queue
        self.id = token_hex(8)
        self.plans: dict[str, Plan] = {}  # the schedules that it fires, by name
        self.change: int | None = None  # number of the last change of a schedule that it has read; None: read all
        self.is_behind = True  # there may be changes to read
        self.fingerprints = dict[str, str]()  # of the schedules that its code declares, by name
        self.release = ""  # the same for all schedulers that declare the same
        self.others = set[str]()  # names of its declared schedules that Redis does not have from this release
        self.began_ms = 0  # by the server's clock; 0: it has not declared anything yet
        self.present = 0  # schedulers of this release
        self.reported_at = self.declared_at = NEVER  # when it last reported, and declared all; monotonic
        self.trouble = ""  # why nothing can be fired; '' if something can
        self.in_worker = False  # the worker logs that the server is unavailable
        self._has_warned = False
        self.lot = random.random()  # the share of the schedulers that fires before this one
        self._ahead = 0.0  # the server's clock minus this process's monotonic clock, in ms
        self._warned: dict[str, str] = {}  # what was last logged, by schedule

    @property
    def now_ms(self) -> float:
        """The time by the server's clock, or a little earlier."""
        return time.monotonic() * 1000 + self._ahead

    @property
    def leaves_slots(self) -> bool:
        """Whether enough other schedulers fire at a slot, so that this one need not."""
        return self.lot * self.present >= _FIRST

    @property
    def past_ms(self) -> float:
        """The server's time up to which this scheduler has to fire slots now."""
        return self.now_ms - (_LATER_MS * (1 + self.lot) if self.leaves_slots else 0)

    def record_time(self, server_ms: float) -> None:
        """Record the server's time from an answer."""
        self._ahead = server_ms - time.monotonic() * 1000
        self.trouble = ""
        if self._has_warned:
            self._has_warned = False
            logger.info("the schedules of queue '%s' go on", self.queue.name)

    def failed(self, error: DriverError) -> None:
        """Note that Redis did not answer. This is logged once."""
        self.trouble = str(error)
        if self._has_warned or (self.in_worker and isinstance(error, Unavailable)):
            return  # a worker logs one line for everything that stops while its server is away
        self._has_warned = True
        where = f"'{self.queue.name}' at {self.queue.driver.where}"
        logger.warning("the schedules of queue %s wait for the server: %s", where, error)

    def warn_once(self, name: str, what: str) -> None:
        """Log what is wrong with a schedule, once for as long as it stays so; "" means that nothing is."""
        if not what:
            self._warned.pop(name, None)
        elif self._warned.get(name) != what:
            self._warned[name] = what
            logger.warning("schedule '%s' of queue '%s': %s", visible(name), self.queue.name, what)

    def report_again(self) -> None:
        """Let the next look report, declare what Redis has from other releases, and read what is new."""
        self.reported_at, self.is_behind = NEVER, True

    def begin_again(self) -> None:
        """Let the next look declare everything and then read everything: Redis has an older state, or none."""
        self.declared_at, self.change = NEVER, None
        self.report_again()
