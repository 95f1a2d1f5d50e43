"""Where a queue's server is: at a fixed address, at the owner of a slot, or where the sentinels say. No I/O.

A queue's keys have one hash tag, so on a cluster they are all in one slot, and one node at a time owns them.
Sentinels name one master at a time. So each queue needs one address, which changes when a node fails or a slot
moves.

`search` is a generator, so that async and sync connections share it. It yields questions, is sent their replies,
and returns an address. Each question needs a connection of its own.
"""

import re
from binascii import crc_hqx
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from redis import exceptions as redis_errors

from redisjobs.drivers.redis.wire import Wire, shown, translate
from redisjobs.errors import DriverError, Unavailable

SLOTS = 16384


class Address(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Question(NamedTuple):
    """Commands for one server, over a connection of their own.

    Attributes:
        address: Where the server is.
        wires: The commands.
        is_sentinel: Whether it is a sentinel: these may have a password of their own.
    """

    address: Address
    wires: Sequence[Wire]
    is_sentinel: bool = False


Search = Generator[Question, "Sequence[Any] | Exception", Address | None]
"""A search for the server. It is sent the replies, in which an error is a value; or the error if no reply came. It
returns the address; None for a Unix socket."""

Remap = Callable[[tuple[str, int]], tuple[str, int]]
"""Returns the address to use for one that a node told, for nodes behind NAT or with names of their own."""


class Locator(Protocol):
    """Knows or finds where a queue's server is. Threads share it."""

    @property
    def known(self) -> Address | None:
        """Where the server is; None: `search` before you connect."""

    def search(self) -> Search:
        """Find the server.

        Raises:
            Unavailable: None of those who could know answered, or they know no server at present.
            DriverError: All say that the topology is another than was configured, or refuse the credentials.
        """

    def doubt(self, address: Address | None, error: BaseException) -> None:
        """Note that a call to the server at this address has failed. The next connection may need a search."""


@dataclass
class Fixed:
    """One server that stays where it is.

    Attributes:
        known: Its address; None for a Unix socket.
    """

    known: Address | None

    def search(self) -> Search:
        yield from ()
        return self.known

    def doubt(self, address: Address | None, error: BaseException) -> None:
        pass


def slot_of(tag: str) -> int:
    """Return the slot of the keys with a hash tag."""
    return crc_hqx(tag.encode("utf-8", "surrogateescape"), 0) % SLOTS


class BySlot:
    """The node of a cluster that owns a slot.

    Args:
        nodes: Some nodes of the cluster. All that the last answer named are asked, too.
        slot: The slot.
        remap: For addresses that nodes tell; None: they are right as they are.
    """

    def __init__(self, nodes: Iterable[Address], slot: int, remap: Remap | None = None) -> None:
        self.known: Address | None = None
        # Replaced, never changed in place: threads share it, and removing would fail if another one removes first.
        self._nodes = self._given = tuple(dict.fromkeys(nodes))
        self._slot = slot
        self._remap = remap
        self._doubted: Address | None = None  # the owner that a call has failed at

    def search(self) -> Search:
        return (yield from _explained(self._search))

    def _search(self, troubles: list[str]) -> Search:
        refused, named = list[DriverError](), None
        asked, left = set[Address](), deque(self._nodes)
        while left:
            node = left.popleft()
            if node in asked:
                continue
            asked.add(node)
            answer = yield Question(node, [["CLUSTER", "SLOTS"]])
            self._last(node)  # if it is wrong, another one is asked next
            error = answer if isinstance(answer, Exception) else _error_in(answer)
            if error is None:
                nodes, owner, *replicas = self._read(answer[0], node)  # type: ignore[index]
                self._add(nodes)
                if owner is None:
                    troubles.append(f"{node} knows no owner")
                    continue
                self._keep(nodes)
                named = owner
                if owner != self._doubted or asked.issuperset(replicas):
                    break
                left.extendleft(replicas)  # one that has just taken over knows it before this node does
            else:
                said = _translated(error, node)
                troubles.append(f"{node}: {said}")
                if not isinstance(said, Unavailable):
                    refused.append(said)
        if named is not None:
            self.known, self._doubted = named, None
            return named
        if len(refused) == len(troubles) > 0:  # else one of the others may know later
            raise refused[0]
        raise Unavailable(f"no node of the cluster says who owns slot {self._slot} now")

    def doubt(self, address: Address | None, error: BaseException) -> None:
        moved = moved_to(error)
        if moved is not None and address is not None:
            self.known, self._doubted = self._right(*moved, address), None
            self._add([self.known])
        elif address is not None:
            self._last(address)  # others know first that it has failed
            self._doubted = address
            if address == self.known:
                self.known = None

    def _read(self, reply: Any, asked: Address) -> tuple[list[Address], Address | None, *tuple[Address, ...]]:
        """Return all nodes, the owner of the slot, and its replicas."""
        nodes: list[Address] = []
        owner: tuple[Address | None, *tuple[Address, ...]] = (None,)
        for first, last, *those in reply or ():
            there = [self._right(shown(node[0] or b""), int(node[1]), asked) for node in those]
            nodes += there
            if first <= self._slot <= last and there:
                owner = (there[0], *there[1:])
        return nodes, *owner

    def _right(self, host: str, port: int, asked: Address) -> Address:
        """Return the address to use for one that a node told; it leaves out the host that it was asked at."""
        address = Address(host if host and host != "?" else asked.host, port)
        return Address(*self._remap(address)) if self._remap is not None else address

    def _add(self, nodes: Iterable[Address]) -> None:
        self._nodes = tuple(dict.fromkeys((*self._nodes, *nodes)))

    def _keep(self, nodes: Iterable[Address]) -> None:
        """Forget the nodes that have left: each would cost a time-out. Nodes in containers often move."""
        present = {*self._given, *nodes}
        self._nodes = tuple(node for node in self._nodes if node in present)

    def _last(self, node: Address) -> None:
        """Ask this node after all others the next time."""
        nodes = self._nodes
        if node in nodes:
            self._nodes = (*(each for each in nodes if each != node), node)


class BySentinel:
    """The master that sentinels name.

    Args:
        sentinels: Some of the sentinels.
        name: The master's name.
        remap: For the address that a sentinel tells; None: it is right as it is.

    Attributes:
        questions: The commands that ask a sentinel for the master: for the epoch, and for the address. Only the
            second one gives the new address while the sentinel still reconfigures the other replicas.
    """

    def __init__(self, sentinels: Iterable[Address], name: str, remap: Remap | None = None) -> None:
        self.known: Address | None = None
        self.name = name
        asked = "MASTER", "GET-MASTER-ADDR-BY-NAME"
        self.questions: Sequence[Wire] = [["SENTINEL", what, name] for what in asked]
        self._sentinels = deque(dict.fromkeys(sentinels))
        self._remap = remap
        self._doubted: Address | None = None  # the master that a call has failed at
        self._epoch = 0  # of the newest answer: it grows with each failover

    @property
    def sentinels(self) -> list[Address]:
        """The sentinels, the one to be asked first before the others."""
        return list(self._sentinels)

    def search(self) -> Search:
        return (yield from _explained(self._search))

    def _search(self, troubles: list[str]) -> Search:
        refused, unknown, late, named = list[DriverError](), 0, list[int](), None
        failed: dict[Address, str | DriverError] = {}  # a frozen server would cost the whole time-out each time
        for sentinel in self.sentinels:
            self._sentinels.rotate(-1)
            answer = yield Question(sentinel, self.questions, is_sentinel=True)
            error = answer if isinstance(answer, Exception) else _error_in(answer)
            if error is not None and "No such master" in str(error):
                unknown += 1
                troubles.append(f"{sentinel} knows no master of this name")
            elif error is not None:
                said = _translated(error, sentinel, is_sentinel=True)
                troubles.append(f"{sentinel}: {said}")
                if not isinstance(said, Unavailable):
                    refused.append(said)
            elif (told := self._newest(answer)) is None:  # type: ignore[arg-type]
                troubles.append(f"{sentinel} has not heard of the last failover")
                late.append(int(_facts(answer[0])["config-epoch"]))  # type: ignore[index]
            else:
                trouble = failed.get(told) or _no_master((yield Question(told, [["HELLO"]])), told)
                # A master that was frozen may answer when another one has taken over.
                if trouble is None and (yield from self._confirm(sentinel)) == told:
                    named = told, self._epoch
                    if told != self._doubted:
                        break
                    continue  # another one may have heard of a failover that this one has not
                if isinstance(trouble, DriverError):
                    refused.append(trouble)
                failed[told] = trouble or "but not when asked again"
                troubles.append(f"{sentinel} says {told}, {failed[told]}")
        if named is not None and named[1] == self._epoch:
            self.known, self._doubted = named[0], None
            return self.known
        if refused and len(refused) + unknown == len(troubles):  # else one of the others may know later
            raise refused[0]
        if len(late) == len(self._sentinels):  # an operator had them monitor it again: they count from 0
            self._epoch = max(late)
        if unknown == len(self._sentinels):
            raise DriverError(
                f"no sentinel monitors a master named {self.name!r} ({', '.join(map(str, self.sentinels))}): "
                "correct the name in the URL, as redis+sentinel://HOST:26379/NAME/0"
            )
        raise Unavailable(f"no sentinel names the master {self.name!r} now")

    def _confirm(self, sentinel: Address) -> Search:
        """Return what a sentinel names now; None if it does not say."""
        answer = yield Question(sentinel, self.questions, is_sentinel=True)
        error = answer if isinstance(answer, Exception) else _error_in(answer)
        return self._newest(answer) if error is None else None  # type: ignore[arg-type]

    def hear(self, answer: Sequence[Any]) -> None:
        """Note a sentinel's answer to `questions`."""
        told = self._newest(answer)
        if told is not None and told not in (self.known, self._doubted):
            self.known, self._doubted = told, None

    def doubt(self, address: Address | None, error: BaseException) -> None:
        if address is not None and address == self.known:
            self.known, self._doubted = None, address

    def _newest(self, answer: Sequence[Any]) -> Address | None:
        """Return the address in a sentinel's answer; None if another sentinel has told of a later failover."""
        facts, told = answer
        epoch = int(_facts(facts)["config-epoch"])
        if epoch < self._epoch or not told:
            return None
        self._epoch = epoch
        address = Address(shown(told[0]), int(told[1]))
        return Address(*self._remap(address)) if self._remap is not None else address


def _explained(search: Callable[[list[str]], Search]) -> Search:
    """Run a search; if it finds nothing now, or the time is over, add what it met to the error."""
    troubles: list[str] = []
    try:
        return (yield from search(troubles))
    except Unavailable as error:
        if not troubles:
            raise
        raise Unavailable(f"{error} ({'; '.join(troubles)})") from error


def _error_in(replies: Sequence[Any]) -> Exception | None:
    return next((reply for reply in replies if isinstance(reply, Exception)), None)


def moved_to(error: BaseException | None) -> tuple[str, int] | None:
    """Return the address of a MOVED error, which may be the cause of this one."""
    while error is not None:
        if isinstance(error, redis_errors.MovedError):
            return error.host, error.port
        if told := _MOVED.fullmatch(str(error)):
            return told[1], int(told[2])
        error = error.__cause__
    return None


_MOVED = re.compile(r"MOVED [0-9]+ (.*):([0-9]+)")  # an older redis-py has the class only in its cluster client


def _no_master(answer: Sequence[Any] | Exception, asked: Address) -> str | DriverError | None:
    """Return why a server can't be the master, as far as its answer to HELLO shows; None if it can.

    An error means that a later try won't help.
    """
    error = answer if isinstance(answer, Exception) else _error_in(answer)
    if isinstance(error, redis_errors.AuthenticationError):
        return DriverError(
            f"the master at {asked} refused the credentials ({error}): write them before the hosts, as "
            "redis+sentinel://USER:PASSWORD@…; sentinel_username and sentinel_password are for the sentinels only"
        )
    if error is not None:
        return f"which fails: {translate(error)}"
    role = _facts(answer[0]).get("role", "master")  # type: ignore[index]
    return None if role == "master" else f"which is a {role} still"


def _facts(flat: Sequence[Any]) -> dict[str, str]:
    texts = [shown(part) if isinstance(part, bytes) else str(part) for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=False))


_UNKNOWN = re.compile(r"(?i)unknown (sub)?command")


def _translated(error: Exception, asked: Address, *, is_sentinel: bool = False) -> DriverError:
    """Return the error of a question as ours, with what to do about it."""
    text = str(error)
    if is_sentinel and isinstance(error, redis_errors.AuthenticationError):
        return DriverError(
            f"the sentinel at {asked} refused the credentials ({text}): give its own as "
            "?sentinel_username=…&sentinel_password=…"
        )
    if is_sentinel and _UNKNOWN.search(text):
        return DriverError(f"{asked} is no sentinel: give the addresses of sentinels, or write redis://{asked}")
    if not is_sentinel and "cluster support disabled" in text:
        return DriverError(f"{asked} is no node of a cluster: write redis://{asked}")
    if not is_sentinel and _UNKNOWN.search(text):
        return DriverError(
            f"{asked} is no node of a cluster: if it is a sentinel, write redis+sentinel://{asked}/NAME/0, else "
            f"redis://{asked}"
        )
    translated = translate(error)
    return translated if isinstance(translated, Unavailable) else type(translated)(f"{asked}: {translated}")
