"""The faulty proxy does what it says, and nothing else."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from redisjobs.local.server import Server
from redisjobs_proof.torture.proxy import HOST, Proxy

LIMIT = 10.0  # seconds until something that should happen counts as missing
MOMENT = 0.05  # seconds in which something that should not happen would have


@pytest.fixture
def proxy(module_server: Server) -> Iterator[Proxy]:
    with Proxy(HOST, module_server.port) as proxy:
        yield proxy


def connect(to: Proxy | Server) -> socket.socket:
    return socket.create_connection((HOST, to.port), timeout=LIMIT)


def ask(client: socket.socket, request: bytes, reply: bytes) -> None:
    client.sendall(request)
    expect(client, reply)


def expect(client: socket.socket, reply: bytes) -> None:
    received = b""
    while len(received) < len(reply):
        chunk = client.recv(65536)
        assert chunk, f"an orderly end after {received!r}"
        received += chunk
    assert received == reply


def expect_reset(client: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        client.recv(1)  # an orderly end would return here


def expect_no_service(at: Proxy) -> None:
    with pytest.raises(ConnectionResetError), connect(at) as client:  # the reset may hit connect() already
        client.recv(1)


def expect_silence(client: socket.socket) -> None:
    client.settimeout(MOMENT)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(LIMIT)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_without_a_fault_everything_passes_and_is_counted(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        ask(one, b"ECHO hello\r\n", b"$5\r\nhello\r\n")
        ask(two, b"PING\r\n", b"+PONG\r\n")
    assert proxy.connections == 2
    assert proxy.request_bytes == len(b"ECHO hello\r\nPING\r\n")
    assert proxy.reply_bytes == len(b"$5\r\nhello\r\n+PONG\r\n")


def test_what_is_larger_than_a_buffer_passes_whole(proxy: Proxy) -> None:
    bulk = b"$3000000\r\n" + bytes(3_000_000) + b"\r\n"
    with connect(proxy) as client:
        ask(client, b"*2\r\n$4\r\nECHO\r\n" + bulk, bulk)


def test_an_orderly_end_stays_orderly(proxy: Proxy) -> None:
    with connect(proxy) as client:
        ask(client, b"QUIT\r\n", b"+OK\r\n")
        assert client.recv(1) == b""


def test_a_cut_before_the_first_byte_loses_the_reply_of_a_request_that_was_executed(
    proxy: Proxy, module_server: Server
) -> None:
    proxy.cut_after_reply_bytes(0, b"SET")
    with connect(proxy) as client, connect(module_server) as direct:
        ask(client, b"PING\r\n", b"+PONG\r\n")
        client.sendall(b"SET cut done\r\n")
        expect_reset(client)
        ask(direct, b"GET cut\r\n", b"$4\r\ndone\r\n")
    assert proxy.cuts == 1


def test_a_cut_forwards_exactly_that_number_of_bytes_and_strikes_one_connection_once(proxy: Proxy) -> None:
    with connect(proxy) as other, connect(proxy) as client:
        proxy.cut_after_reply_bytes(6)
        ask(client, b"ECHO hello\r\n", b"$5\r\nhe")
        expect_reset(client)
        ask(other, b"PING\r\n", b"+PONG\r\n")
    assert proxy.cuts == 1


@pytest.mark.parametrize("said", [b"ECHO", b"PING"])
def test_a_cut_strikes_the_connection_that_sends_one_of_its_triggers(proxy: Proxy, said: bytes) -> None:
    proxy.cut_after_reply_bytes(0, b"ECHO", b"PING")
    with connect(proxy) as client:
        client.sendall(said + b" hello\r\n")
        expect_reset(client)
    assert proxy.cuts == 1


def test_a_cut_may_come_replies_later(proxy: Proxy) -> None:
    proxy.cut_after_reply_bytes(10, b"PING")
    with connect(proxy) as client:
        ask(client, b"PING\r\n", b"+PONG\r\n")
        ask(client, b"PING\r\n", b"+PO")
        expect_reset(client)


@pytest.mark.parametrize("aimed", [False, True])
def test_a_cut_that_is_taken_back_strikes_no_one(proxy: Proxy, aimed: bool) -> None:
    with connect(proxy) as client:
        proxy.cut_after_reply_bytes(10, b"PING")
        if aimed:
            ask(client, b"PING\r\n", b"+PONG\r\n")
        proxy.cut_no_more()
        for _ in range(3):
            ask(client, b"PING\r\n", b"+PONG\r\n")
    assert proxy.cuts == 0


def test_a_trigger_is_seen_when_packets_split_it(proxy: Proxy) -> None:
    proxy.cut_after_reply_bytes(0, b"ECHO")
    with connect(proxy) as client:
        client.sendall(b"EC")
        wait_until(lambda: proxy.request_bytes == 2)
        client.sendall(b"HO hello\r\n")
        expect_reset(client)


def test_a_trigger_is_not_seen_in_what_was_sent_before_it_was_set(proxy: Proxy) -> None:
    with connect(proxy) as client:
        ask(client, b"ECHO a\r\n", b"$1\r\na\r\n")
        proxy.cut_after_reply_bytes(0, b"ECHO")
        ask(client, b"PING\r\n", b"+PONG\r\n")
        client.sendall(b"ECHO a\r\n")
        expect_reset(client)


def test_dropping_all_resets_every_connection_and_new_ones_work(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        for client in (one, two):
            ask(client, b"PING\r\n", b"+PONG\r\n")
        assert proxy.drop_all() == 2
        expect_reset(one)
        expect_reset(two)
    with connect(proxy) as client:
        ask(client, b"PING\r\n", b"+PONG\r\n")


def test_a_black_hole_accepts_and_swallows_both_ways(proxy: Proxy, module_server: Server) -> None:
    with connect(proxy) as old, connect(module_server) as direct:
        ask(old, b"SUBSCRIBE news\r\n", b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
        proxy.black_hole(True)
        with connect(proxy) as new:
            new.sendall(b"SET swallowed yes\r\n")
            ask(direct, b"PUBLISH news hello\r\n", b":1\r\n")  # the server believes that it was delivered
            expect_silence(old)
            expect_silence(new)
            ask(direct, b"EXISTS swallowed\r\n", b":0\r\n")


def test_a_connection_that_lost_nothing_in_a_black_hole_works_after_it(proxy: Proxy) -> None:
    with connect(proxy) as client:
        ask(client, b"PING\r\n", b"+PONG\r\n")
        proxy.black_hole(True)
        proxy.black_hole(False)
        ask(client, b"PING\r\n", b"+PONG\r\n")


def test_a_server_learns_only_after_a_black_hole_that_its_client_has_gone(
    proxy: Proxy, module_server: Server
) -> None:
    subscribed = b"*2\r\n$6\r\ndoomed\r\n:%d\r\n"
    with connect(module_server) as direct:
        with connect(proxy) as client:
            ask(client, b"SUBSCRIBE doomed\r\n", b"*3\r\n$9\r\nsubscribe\r\n$6\r\ndoomed\r\n:1\r\n")
            proxy.black_hole(True)
        time.sleep(MOMENT)
        ask(direct, b"PUBSUB NUMSUB doomed\r\n", subscribed % 1)
        proxy.black_hole(False)

        def gone() -> bool:
            direct.sendall(b"PUBSUB NUMSUB doomed\r\n")
            return direct.recv(100) == subscribed % 0

        wait_until(gone)


def test_a_delay_holds_requests_and_replies_back(proxy: Proxy) -> None:
    proxy.delay(MOMENT)
    with connect(proxy) as client:
        started = time.monotonic()
        ask(client, b"PING\r\n", b"+PONG\r\n")
        assert time.monotonic() - started >= 2 * MOMENT


def test_refusing_resets_new_connections_and_leaves_the_old(proxy: Proxy) -> None:
    with connect(proxy) as old:
        ask(old, b"PING\r\n", b"+PONG\r\n")
        proxy.refuse(True)
        expect_no_service(proxy)
        ask(old, b"PING\r\n", b"+PONG\r\n")
    assert proxy.connections == 2
    proxy.refuse(False)
    with connect(proxy) as client:
        ask(client, b"PING\r\n", b"+PONG\r\n")


def test_what_is_held_arrives_when_it_is_let_go_though_its_client_is_long_gone(
    proxy: Proxy, module_server: Server
) -> None:
    held = proxy.hold(b"SET held")
    with connect(proxy) as client, connect(module_server) as direct:
        ask(client, b"PING\r\n", b"+PONG\r\n")
        client.sendall(b"SET held yes\r\n")
        expect_reset(client)
        assert held.bytes == len(b"SET held yes\r\n")
        ask(direct, b"EXISTS held\r\n", b":0\r\n")

        held.release()

        ask(direct, b"GET held\r\n", b"$3\r\nyes\r\n")


def test_only_the_next_is_held_and_nothing_once_it_is_no_longer_waited_for(
    proxy: Proxy, module_server: Server
) -> None:
    proxy.hold(b"ECHO")
    proxy.hold(b"PING").release()
    with connect(proxy) as first, connect(proxy) as second:
        first.sendall(b"ECHO a\r\n")
        expect_reset(first)
        ask(second, b"ECHO a\r\n", b"$1\r\na\r\n")
        ask(second, b"PING\r\n", b"+PONG\r\n")


def test_without_a_server_behind_it_connections_are_reset() -> None:
    with socket.socket() as unheard:  # bound, but it does not listen
        unheard.bind((HOST, 0))
        with Proxy(HOST, unheard.getsockname()[1]) as proxy:
            expect_no_service(proxy)


def test_an_async_test_can_steer_it_from_its_own_loop(proxy: Proxy) -> None:
    async def main() -> bytes:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        proxy.cut_after_reply_bytes(2)
        writer.write(b"PING\r\n")
        received = await reader.readexactly(2)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        return received

    assert asyncio.run(main()) == b"+P"


def test_leaving_it_ends_its_connections_and_its_thread(module_server: Server) -> None:
    with Proxy(HOST, module_server.port) as proxy:
        client = connect(proxy)
        ask(client, b"PING\r\n", b"+PONG\r\n")
    with client:
        assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
