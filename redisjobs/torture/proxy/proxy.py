"""The proxy, as those see it who steer it."""

from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from redisjobs.torture.proxy.impairments import Cut, Held, Impairments, Lag
from redisjobs.torture.proxy.links import Links
from redisjobs.torture.proxy.listener import HOST, Listener

_T = TypeVar("_T")


class Proxy:
    """Forwards TCP connections to a target, faultily. A context manager; all methods are thread-safe.

    It runs on a thread and an event loop of its own, so sync tests, async tests and clients in other
    processes can use it alike. A fault is in force when its method returns. To reset a connection
    means a TCP RST to both sides: a client sees ECONNRESET and not an orderly end.

    Attributes:
        port: Where it listens on 127.0.0.1, once entered.
        connections: How many it has accepted, refused ones included.
        request_bytes: How many bytes it has forwarded to the server.
        reply_bytes: How many bytes it has forwarded to clients.
        cuts: How often `cut_after_reply_bytes` has struck.
        lags: How often `delay_reply` has.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = self.connections = self.request_bytes = self.reply_bytes = self.cuts = self.lags = 0
        self._impairments = Impairments()
        self._links = Links(self, self._impairments, (target_host, target_port))
        self._listener: Listener | None = None

    @property
    def target(self) -> tuple[str, int]:
        """Where new connections lead; may be changed."""
        return self._links.target

    @target.setter
    def target(self, target: tuple[str, int]) -> None:
        self._links.target = target

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://{HOST}:{self.port}/0"

    def __enter__(self) -> Self:
        self._listener = Listener(self._links)
        self.port = self._listener.port
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for held in self._impairments.holds:
            held.drop()

    def cut_after_reply_bytes(self, n: int, *triggers: bytes) -> None:
        """Resets, once, the next connection to send one of `triggers`, `n` bytes of reply later.

        Args:
            n: How many bytes the client still gets. With 0 the request is executed and its reply is
                lost: the reset comes when the reply does. Stay below a socket's buffer (64 KiB), as
                a reset may overtake what the client's kernel has not taken in.
            triggers: What the request contains one of; packets may split it. None means any request.
        """
        self._in_loop(self._links.set_cut(Cut(triggers or (b"",), n)))

    def cut_no_more(self) -> None:
        """Takes back what `cut_after_reply_bytes` has set and has not struck yet."""
        self._in_loop(self._links.cut_no_more())

    def delay_reply(self, seconds: float, *triggers: bytes) -> None:
        """Holds back, once, for so long what the server sends to the next connection to send one of `triggers`."""
        self._in_loop(self._links.set_lag(Lag(triggers, seconds)))

    def delay_reply_no_more(self) -> None:
        """Takes back what `delay_reply` has set and has not struck yet; what is held back stays so."""
        self._in_loop(self._links.set_lag(None))

    def hold(self, *triggers: bytes) -> Held:
        """Keeps, once, the next packet with one of `triggers` instead of sending it on, and resets its client.

        So a request can arrive that its client has given up, however much later `release` is called.
        """
        held = Held(*triggers)
        self._impairments.holds.append(held)
        return held

    def drop_all(self) -> int:
        """Resets every connection that has reached the server; returns how many there were."""
        return self._in_loop(self._links.drop(half_dead_only=False))

    def black_hole(self, on: bool) -> None:
        """Swallows everything, ends of connections too, and keeps all sockets open, as a cut cable does.

        What was swallowed stays lost. `False` resets the connections that one side has ended meanwhile
        and leaves the others as they are, even in the middle of a request.
        """
        self._impairments.black_hole = on
        if not on:
            self._in_loop(self._links.drop(half_dead_only=True))

    def delay(self, seconds: float) -> None:
        """Holds every chunk back for so long, in both directions; 0 ends it."""
        self._impairments.delay = seconds

    def refuse(self, on: bool) -> None:
        """Accepts new connections only to reset them. Those that are there stay."""
        self._impairments.refuse = on

    def _in_loop(self, act: Coroutine[Any, Any, _T]) -> _T:
        # Links belong to the loop's thread and need no lock; what is one step, as an assignment is, needs no loop.
        assert self._listener is not None
        return self._listener.call(act)
