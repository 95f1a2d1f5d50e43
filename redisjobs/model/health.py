"""What an operator learns about the health of a queue: findings, and what a driver returns to make them from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from redisjobs.model.changes import Change
from redisjobs.model.queries import Query


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    """It was checked, and is in order."""
    INFO = "info"
    """It is as you set it, or will be right by itself."""
    WARNING = "warning"
    """It may become a problem."""
    ERROR = "error"
    """Jobs are stuck, may be lost, or can't be pushed."""
    UNKNOWN = "unknown"
    """It could not be checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a queue or its server.

    Attributes:
        check: The name of the check; a fixed word or two.
        level: How much it matters.
        sentence: What is wrong, or in order, with the number and up to ten ids.
        advice: What to do; '' if there is nothing to do.
        count: How many jobs, keys or other things it is about.
        examples: Up to ten of them.
        repaired: What was done about it; '' if nothing was.
    """

    check: str
    level: Level
    sentence: str
    advice: str = ""
    count: int = 0
    examples: tuple[str, ...] = ()
    repaired: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Two parts of the stored state that contradict each other."""

    kind: str  # see `client/findings.py`
    what: str  # the job or the key
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Audited:
    """The answer to one step of an audit."""

    after: str  # where the next step begins; '' at the end
    part: str  # what this step has checked
    looked: int = 0  # how many things it looked at
    total: int = 0  # of the first step: about how many things there are in all parts
    faults: Sequence[Fault] = ()
    waiting: Mapping[str, int] = field(default_factory=dict)  # job names of ready jobs, and how many there are
    error: str = ""  # why the part could not be checked; then the next step begins the next part


@dataclass(frozen=True, slots=True)
class Audit(Change[Audited]):
    """Check that the parts of the stored state agree with each other, in bounded steps; maybe repair them.

    Each step looks at each thing at one instant, so that a busy queue has no faults. A repair loses no job.
    """

    after: str = ""  # the `after` of the step before; '' to begin
    repair: bool = False


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a store says about itself. A store without a server has only the time.

    Redis' facts are judged by `client/findings.py`; another store returns its findings.
    """

    now_ms: int
    facts: Mapping[str, str] = field(default_factory=dict)  # by Redis' own names, such as `maxmemory_policy`
    pings: Sequence[float] = ()  # how many seconds some round trips took
    offset: float = 0.0  # how many seconds the server's clock is ahead of this machine's
    step: float = 0.0  # by how many seconds the server's clock jumped meanwhile
    slow: Sequence[float] | None = None  # how many seconds slow calls on this queue took; None: not known
    # Commands that the user may not run, and for what; None: not known.
    refused: Mapping[str, Sequence[str]] | None = None
    # What the driver says of its server's settings, memory and rights; None: `facts` are to be judged.
    findings: Sequence[Finding] | None = None


@dataclass(frozen=True, slots=True)
class CheckServer(Query[ServerFacts]):
    """Ask the store about itself, and measure its clock and its latency."""
