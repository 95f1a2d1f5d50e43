"""The thread that hears from sentinels, without any: when it starts."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from redisjobs.drivers.redis.locator import Address, BySentinel, Locator
from redisjobs.drivers.redis.sentinels import SentinelWatch
from redisjobs.local.server import free_port


class Watching:
    """A target whose sentinels are away."""

    def __init__(self) -> None:
        self.locator: Locator = BySentinel([Address("127.0.0.1", free_port())], "jobs")
        self.has_open = True
        self.asked = threading.Event()

    def sync_connection(self, address: Address | None, timeout: float, *, is_sentinel: bool = False) -> Any:
        self.asked.set()
        raise ConnectionError("away")

    def end_others(self) -> None:
        pass


@pytest.fixture
def watched() -> Iterator[Watching]:
    watched = Watching()
    yield watched
    watched.has_open = False


def test_a_thread_that_could_not_start_is_started_with_the_next_connection(
    watched: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watch = SentinelWatch(watched)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            watch.start()
    watch.start()
    assert watched.asked.wait(5)


def test_a_signals_handler_that_opens_a_connection_does_not_wait_for_the_one_that_it_has_interrupted(
    watched: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, start = SentinelWatch(watched), threading.Thread.start
    opening = threading.Thread(target=watch.start, daemon=True)

    def interrupted(thread: threading.Thread) -> None:
        if thread is not opening:
            monkeypatch.setattr(threading.Thread, "start", start)
            watch.start()  # by the handler
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    opening.start()
    opening.join(5)
    assert not opening.is_alive()
    assert watched.asked.wait(5)
