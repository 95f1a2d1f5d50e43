"""A push, and a worker with its heartbeat, through TLS, by certificates of an authority of our own."""

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any, ClassVar

import anyio
import pytest
import redis
import redis.asyncio
from store import eventually, happened

import redisjobs.sync
from redisjobs import JobContext, JobQueue, Unavailable, Worker
from redisjobs.drivers.redis.commands import Commands, hello
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import ServerNotFound
from redisjobs.local import server
from redisjobs_proof.torture.topology import _Sentinel, ask, until

pytestmark = pytest.mark.anyio


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int


@dataclass
class Tls:
    """A server that speaks TLS and asks for a client's certificate."""

    port: int
    folder: Path

    def url(self, **options: str) -> str:
        """Its URL, with the options of a client that is let in, but for those given."""
        folder = self.folder
        good: dict[str, Any] = {
            "ca_certs": folder / "ca.pem",
            "certfile": folder / "client.pem",
            "keyfile": folder / "client.key",
        }
        query = "&".join(f"ssl_{name}={value}" for name, value in (good | options).items() if value)
        return f"rediss://127.0.0.1:{self.port}/0?{query}"


def make_certificates(folder: Path) -> None:
    """An authority `ca`, `server` and `client` that it signed, and `stranger`, an authority of its own."""

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    signs = "-addext keyUsage=critical,keyCertSign,cRLSign"  # as Python 3.13 demands
    for name in ("ca", "stranger"):
        openssl(f"req -x509 {new} {signs} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}")
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    for name in ("server", "client"):
        openssl(f"req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names"
        openssl(f"x509 -req -in {name}.csr -out {name}.pem {signed}")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if which("openssl") is None:
        pytest.skip("there is no openssl here to make certificates")
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


def options_of(certificates: Path, port: int) -> dict[str, str]:
    """The options of a server or a sentinel that speaks TLS."""
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    named = {f"tls-{name}-file": str(certificates / file) for name, file in files.items()}
    return {"tls-port": str(port), **named}


@contextmanager
def serving(certificates: Path, *words: str) -> Iterator[tuple[Tls, server.Server]]:
    port = server.free_port()
    for name, value in options_of(certificates, port).items():
        words += (f"--{name}", value)
    try:
        running = server.start(options=words)
    except ServerNotFound:
        pytest.skip("the server at hand was built without TLS")
    with running:
        yield Tls(port, certificates), running


@pytest.fixture(scope="module")
def tls(certificates: Path) -> Iterator[Tls]:
    with serving(certificates) as (tls, _):
        yield tls


async def test_jobs_are_pushed_and_run_and_workers_beat_through_tls(tls: Tls, queue_name: str) -> None:
    seen: list[int] = []
    renewed = anyio.Event()
    with redisjobs.sync.JobQueue(tls.url(), queue_name) as producer:
        await anyio.to_thread.run_sync(producer.push, Add(1))
    async with JobQueue(tls.url(), queue_name) as queue:
        worker = Worker(queue, lease=0.3)

        @queue.register(Add)
        async def add(add: Add, context: JobContext) -> None:
            if add.a == 2:
                await renewed.wait()
            seen.append(add.a)

        await queue.push(Add(2))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await beats(tls, queue_name, worker, 3)
            renewed.set()
            await eventually(lambda: seen == [1, 2])
            worker.stop()
        assert happened(await queue.control.counts()) == {"pushed": 2, "completed": 2}

    assert seen == [1, 2]


def test_a_connection_that_another_thread_ends_speaks_tls_to_the_end(
    tls: Tls, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = list[str | None]()
    connection = SyncConnection(Commands(queue_name), Target(tls.url()))
    connection.run(hello())
    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "shutdown", lambda sock, how: spoken.append(sock.version()))
        connection.end()
    assert spoken[0]
    connection.end()
    with pytest.raises(Unavailable):
        connection.run(hello())
    connection.run(hello())
    connection.close()


async def beats(tls: Tls, queue_name: str, worker: Worker, number: int) -> None:
    """Wait until this worker has beaten this many times: the end of its lease moves with each beat."""
    ends: set[float] = set()
    with redis.Redis.from_url(tls.url()) as admin, anyio.fail_after(10):
        while len(ends) <= number:
            end: Any = admin.zscore(f"redisjobs:{{{queue_name}}}:workers", worker.worker_id)
            ends |= {end} if end is not None else set()
            await anyio.sleep(0.005)


@pytest.mark.parametrize(
    "options",
    [{"ca_certs": ""}, {"ca_certs": "stranger"}, {"certfile": "", "keyfile": ""}],
    ids=["the system's authorities", "a stranger's authority", "no certificate of our own"],
)
@pytest.mark.parametrize("face", [JobQueue, redisjobs.sync.JobQueue], ids=["async", "sync"])
@pytest.mark.filterwarnings("ignore:.*unclosed <s.*:pytest.PytestUnraisableExceptionWarning")  # asyncio's own
async def test_without_trust_on_both_sides_nothing_is_said(
    tls: Tls, queue_name: str, face: Any, options: dict[str, str]
) -> None:
    options = {name: str(tls.folder / f"{value}.pem") if value else "" for name, value in options.items()}
    queue = face(tls.url(**options), queue_name, deadline=0.6)

    with pytest.raises(Unavailable, match="gave up after"):
        await queue.push(Add(1)) if face is JobQueue else queue.push(Add(1))

    with redis.Redis.from_url(tls.url()) as admin:
        assert not list(admin.scan_iter(f"redisjobs:{{{queue_name}}}:*"))


async def test_a_certificate_for_another_name_is_refused_unless_that_is_asked_for(
    tls: Tls, queue_name: str
) -> None:
    elsewhere = tls.url().replace("127.0.0.1", "localhost")  # it names the address alone
    refused = pytest.raises(Unavailable, match=r"(?i)hostname mismatch")
    with redisjobs.sync.JobQueue(elsewhere, queue_name, deadline=0.6) as queue, refused:
        queue.push(Add(1))
    with redisjobs.sync.JobQueue(f"{elsewhere}&ssl_check_hostname=false", queue_name) as queue:
        assert queue.push(Add(1), job_id="a").added
    unchecked = f"{elsewhere}&ssl_cert_reqs=none"
    with redisjobs.sync.JobQueue(unchecked, queue_name) as queue:
        assert queue.push(Add(1), job_id="b").added
    async with redisjobs.JobQueue(unchecked, queue_name) as queue:
        assert (await queue.push(Add(1), job_id="c")).added


async def test_a_connection_that_failed_ends_without_waiting_for_the_servers_side_of_tls(tls: Tls) -> None:
    """Else it would stay open if the event loop ends first."""
    connection = Connection(Commands("q"), Target(tls.url(), "q"))
    await connection.run(hello())
    tcp = connection.send([["PING"]])._transport.get_extra_info("socket")
    with pytest.raises(Unavailable):
        await connection.fail(ConnectionError())
    await asyncio.sleep(0)
    assert tcp.fileno() == -1


async def answer_of(queue: Any) -> object:
    counts = queue.control.counts()
    return await counts if isinstance(queue, JobQueue) else counts


@pytest.mark.slow
@pytest.mark.parametrize("face", [JobQueue, redisjobs.sync.JobQueue], ids=["async", "sync"])
async def test_a_url_that_does_not_say_what_the_server_speaks_is_an_error_that_says_what_to_write(
    tls: Tls, redis_url: str, face: Any
) -> None:
    plain = redis_url.replace("redis://", "rediss://")
    wrong = {f"redis://127.0.0.1:{tls.port}/0": "write rediss://", plain: "write redis://"}
    for url, hint in wrong.items():
        queue = face(url, "q", deadline=7)
        with pytest.raises(Unavailable, match=hint):
            await answer_of(queue)
        await (queue.aclose() if face is JobQueue else anyio.to_thread.run_sync(queue.close))


# Clusters and sentinels, with a user's name and password


@pytest.fixture(scope="module")
def tls_cluster(certificates: Path) -> Iterator[Tls]:
    """A node that is a cluster by itself."""
    words = ["--cluster-enabled", "yes", "--cluster-port", str(server.free_port())]
    with serving(certificates, *words) as (tls, node):
        ask(node, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until(lambda: b"cluster_state:ok" in ask(node, "CLUSTER", "INFO"), "the cluster is ok")
        ask(node, "ACL", "SETUSER", "joe", "on", ">jp", "allkeys", "allchannels", "+@all")
        ask(node, "ACL", "SETUSER", "default", "off")
        yield tls


@pytest.fixture(scope="module")
def tls_sentinel(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    """A sentinel that speaks TLS with its clients and with the master."""
    folder, port = tmp_path_factory.mktemp("sentinel"), server.free_port()
    options = {"dir": str(folder), "tls-replication": "yes", **options_of(certificates, port)}
    with serving(certificates) as (tls, master):
        plain = server.free_port()
        lines = {"port": str(plain), "bind": "127.0.0.1", **options}
        (folder / "sentinel.conf").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        with _Sentinel(server.find(), folder, plain, []) as sentinel:
            ask(sentinel, "SENTINEL", "MONITOR", "jobs", "127.0.0.1", str(tls.port), "1")
            for each, user, password in ((master, "joe", "jp"), (sentinel, "watcher", "wp")):
                ask(each, "ACL", "SETUSER", user, "on", f">{password}", "allkeys", "allchannels", "+@all")
            ask(master, "ACL", "SETUSER", "default", "off")
            ask(sentinel, "ACL", "SETUSER", "default", "off")
            yield Tls(port, certificates)


def words_of(tls: Tls) -> dict[str, Any]:
    folder = tls.folder
    paths = {"ca_certs": "ca.pem", "certfile": "client.pem", "keyfile": "client.key"}
    return {"ssl": True, **{f"ssl_{name}": str(folder / file) for name, file in paths.items()}}


def by_url(tls: Tls) -> Any:
    return tls.url().replace("rediss://", "rediss+cluster://joe:jp@")


def by_client(tls: Tls) -> Any:
    return redis.RedisCluster("127.0.0.1", tls.port, username="joe", password="jp", **words_of(tls))


def by_async_client(tls: Tls) -> Any:
    return redis.asyncio.RedisCluster("127.0.0.1", tls.port, username="joe", password="jp", **words_of(tls))


@pytest.mark.slow
@pytest.mark.parametrize("make", [by_url, by_client, by_async_client])
async def test_a_cluster_is_found_and_used_through_tls(
    tls_cluster: Tls, queue_name: str, make: Callable[[Tls], Any]
) -> None:
    await push_and_run(make(tls_cluster), queue_name)


def sentinel_url(tls: Tls) -> Any:
    url = tls.url().replace("rediss://", "rediss+sentinel://joe:jp@").replace("/0?", "/jobs/0?")
    return f"{url}&sentinel_username=watcher&sentinel_password=wp"


def master_of(kind: Any) -> Callable[[Tls], Any]:
    def master(tls: Tls) -> Any:
        own = {"username": "watcher", "password": "wp", **words_of(tls)}
        sentinel = kind([("127.0.0.1", tls.port)], sentinel_kwargs=own)
        return sentinel.master_for("jobs", username="joe", password="jp", **words_of(tls))

    return master


@pytest.mark.slow
@pytest.mark.parametrize("make", [sentinel_url, master_of(redis.Sentinel), master_of(redis.asyncio.Sentinel)])
async def test_sentinels_and_their_master_are_used_through_tls(
    tls_sentinel: Tls, queue_name: str, make: Callable[[Tls], Any]
) -> None:
    await push_and_run(make(tls_sentinel), queue_name)


async def push_and_run(where: Any, queue_name: str) -> None:
    async with JobQueue(where, queue_name) as queue:
        worker = Worker(queue, lease=1)

        @queue.register(Add, keep_result=60)
        async def add(add: Add) -> int:
            return add.a

        with redisjobs.sync.JobQueue(where, queue_name) as producer:
            await anyio.to_thread.run_sync(producer.push, Add(1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            assert await queue.run(Add(7), timeout=10) == 7
            worker.stop()
        assert happened(await queue.control.counts()) == {"pushed": 2, "completed": 2}
