"""The proxy, as faults control it."""

from typing import Self

from redisjobs_proof.torture.proxy.impairments import Cut, Held, Impairments, Lag
from redisjobs_proof.torture.proxy.link import Counters
from redisjobs_proof.torture.proxy.links import HOST, Links


class Proxy(Counters):
    """Forwards TCP connections to a target, faultily. A context manager; all methods are thread-safe.

    It runs in its own thread and event loop, so sync code, async code and other processes can use it. A fault is
    in force when its method returns. A reset is a TCP RST to both sides: a client sees ECONNRESET.

    Attributes:
        port: Its port on 127.0.0.1, once entered.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__()
        self.port = 0
        self._target = target_host, target_port
        self._impairments = Impairments()
        self._entered: Links | None = None

    @property
    def target(self) -> tuple[str, int]:
        """Host and port of the server for new connections; may be changed."""
        return self._target

    @target.setter
    def target(self, target: tuple[str, int]) -> None:
        self._links.target = self._target = target

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://{HOST}:{self.port}/0"

    def __enter__(self) -> Self:
        self._entered = Links(self, self._impairments, self._target)
        self.port = self._entered.port
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._links.close()
        for held in self._impairments.holds:
            held.drop()

    @property
    def _links(self) -> Links:
        assert self._entered is not None
        return self._entered

    def cut_after_reply_bytes(self, n: int, *triggers: bytes) -> None:
        """Reset, once, the next connection to send one of `triggers`, `n` bytes of reply later.

        Args:
            n: Bytes that the client still gets. With 0 the request is executed and its reply is lost: the reset
                comes when the reply does. Stay below a socket's buffer (64 KiB), as a reset may overtake bytes
                there.
            triggers: The request contains one of them; packets may split it. None means any request.
        """
        self._links.call(self._links.set_cut(Cut(triggers or (b"",), n)))

    def cut_no_more(self) -> None:
        """Take back a `cut_after_reply_bytes` that has not struck yet."""
        self._links.call(self._links.cut_no_more())

    def delay_reply(self, seconds: float, *triggers: bytes) -> None:
        """Delay, once, all replies to the next connection to send one of `triggers`."""
        self._links.call(self._links.set_lag(Lag(triggers, seconds)))

    def delay_reply_no_more(self) -> None:
        """Take back a `delay_reply` that has not struck yet."""
        self._links.call(self._links.set_lag(None))

    def hold(self, *triggers: bytes) -> Held:
        """Keep, once, the next packet with one of `triggers` instead of sending it on, and reset its client.

        So a request can arrive after its client has given it up, however much later `release` is called.
        """
        held = Held(*triggers)
        self._impairments.holds.append(held)
        return held

    def drop_all(self) -> int:
        """Reset every connection that has reached the server; return how many there were."""
        return self._links.call(self._links.drop(half_dead_only=False))

    def black_hole(self, on: bool) -> None:
        """Swallow everything, ends of connections too, and keep all sockets open, as a cut cable does.

        What was swallowed stays lost. `False` resets the connections that one side has ended meanwhile and leaves
        the others as they are, even in the middle of a request.
        """
        self._impairments.black_hole = on
        if not on:
            self._links.call(self._links.drop(half_dead_only=True))

    def delay(self, seconds: float) -> None:
        """Delay every chunk, in both directions; 0 ends it."""
        self._impairments.delay = seconds

    def refuse(self, on: bool) -> None:
        """Accept new connections only to reset them. Those that are there stay."""
        self._impairments.refuse = on
