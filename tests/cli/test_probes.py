"""What answers `/livez` and `/readyz`: clients that say nothing, or all too slowly, keep it from nothing."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from redisjobs.cli import probes, responder
from redisjobs.cli.errors import Mistake
from redisjobs.worker.settings.health import Health


class Probed:
    """A server of probes, and what it is to say."""

    def __init__(self) -> None:
        self.health = Health(True, True, "well")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        probes.serve(f"127.0.0.1:{self.port}", lambda: self.health)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)) as client:
            client.request(method, path)
            answer = client.getresponse()
            return answer.status, answer.read().decode()

    def said(self, words: bytes) -> bytes:
        """All that comes back for these bytes."""
        with self.connect() as client:
            client.sendall(words)
            return b"".join(iter(lambda: client.recv(4096), b""))


@pytest.fixture(scope="module")
def probed() -> Probed:
    return Probed()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(responder, "_WITHIN", 0.5)
    return 0.5


@contextlib.contextmanager
def silent(probed: Probed, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(probed.connect()) for _ in range(count)]


def is_ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("health", "path", "answer"),
    [
        (Health(True, True, "3 of 4"), "/livez", (200, "3 of 4\n")),
        (Health(True, True, "3 of 4"), "/readyz?verbose", (200, "3 of 4\n")),
        (Health(True, False, "wörter"), "/readyz", (503, "wörter\n")),
        (Health(False, False, "stuck"), "/livez", (503, "stuck\n")),
        (Health(True, True, "well"), "/", (404, "there are /livez and /readyz\n")),
    ],
)
def test_it_says_with_a_status_and_in_words_how_the_worker_is(
    probed: Probed, health: Health, path: str, answer: tuple[int, str]
) -> None:
    probed.health = health

    assert probed.ask(path) == answer
    assert probed.ask(path, "HEAD") == (answer[0], "")
    assert probed.ask(path, "POST")[0] == 405


@pytest.mark.parametrize("request_", [b"GET /livez\n\n", b"GET /livez HTTP/1.0\r\nHost: x\r\n\r\nmore"])
def test_the_plainest_client_is_answered(probed: Probed, request_: bytes) -> None:
    probed.health = Health(True, True, "well")

    answer = probed.said(request_)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nwell\n")


def test_silent_connections_keep_no_threads_and_probes_are_answered_meanwhile(probed: Probed) -> None:
    before = threading.active_count()
    with silent(probed, 50):
        assert probed.ask("/livez")[0] == 200

        assert threading.active_count() == before


def test_of_more_connections_than_it_keeps_the_oldest_end_and_probes_are_answered_meanwhile(
    probed: Probed,
) -> None:
    with silent(probed, 200) as clients:
        began = time.monotonic()
        assert probed.ask("/livez")[0] == 200
        assert time.monotonic() - began < responder._WITHIN

        assert all(is_ended(client) for client in clients[: 200 - responder._MOST])
        clients[-1].sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert clients[-1].recv(12) == b"HTTP/1.1 200"


def test_a_silent_connection_ends_by_itself(probed: Probed, impatient: float) -> None:
    with probed.connect() as client:
        began = time.monotonic()

        assert is_ended(client)

    assert impatient * 0.9 < time.monotonic() - began < impatient + 2


@pytest.mark.parametrize("drop", [b"x", b"GET /livez HTTP/1.1\r\n", b"a: b\r\n"])
def test_a_client_that_says_little_by_little_gets_no_more_time(
    probed: Probed, impatient: float, drop: bytes
) -> None:
    began = time.monotonic()
    with probed.connect() as client, contextlib.suppress(OSError):
        while time.monotonic() - began < 10:
            client.sendall(drop)
            time.sleep(impatient / 10)

    assert time.monotonic() - began < impatient + 2


@pytest.mark.parametrize("endless", [b"x" * 100_000, b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 20_000])
def test_a_request_without_end_is_not_read_to_its_end(probed: Probed, endless: bytes) -> None:
    with probed.connect() as client, contextlib.suppress(ConnectionError):
        client.sendall(endless)
        assert client.recv(1) == b""

    assert probed.ask("/livez")[0] == 200


@pytest.mark.parametrize("where", ["8080", "localhost:", "127.0.0.1:x", "127.0.0.1:99999", "256.0.0.1:80"])
def test_what_is_no_address_is_refused(where: str) -> None:
    with pytest.raises(Mistake, match="--health"):
        probes.serve(where, lambda: Health(True, True, ""))


def test_an_address_that_is_taken_is_refused(probed: Probed) -> None:
    with pytest.raises(Mistake, match="can't listen"):
        probes.serve(f"127.0.0.1:{probed.port}", lambda: Health(True, True, ""))


def test_it_listens_on_ipv6_too() -> None:
    with socket.socket(socket.AF_INET6) as free:
        try:
            free.bind(("::1", 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
        port = free.getsockname()[1]
    probes.serve(f"[::1]:{port}", lambda: Health(True, True, "well"))

    with contextlib.closing(http.client.HTTPConnection("::1", port, timeout=2)) as client:
        client.request("GET", "/livez")
        assert client.getresponse().status == 200
