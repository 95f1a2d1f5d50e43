"""A push, and a worker with its heartbeat, through TLS, by certificates of an authority of our own."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any, ClassVar

import anyio
import pytest
import redis
from store import eventually, happened

import redisjobs.sync
from redisjobs import JobContext, JobQueue, Unavailable, Worker, server
from redisjobs.errors import ServerNotFound

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
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    if which("openssl") is None:
        pytest.skip("there is no openssl here to make certificates")
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    port = server.free_port()
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    words = ["--tls-port", str(port)]
    for name, file in files.items():
        words += [f"--tls-{name}-file", str(folder / file)]
    try:
        running = server.start(options=words)
    except ServerNotFound:
        pytest.skip("the server at hand was built without TLS")
    with running:
        yield Tls(port, folder)


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
        assert happened(await queue.counts()) == {"pushed": 2, "completed": 2}

    assert seen == [1, 2]


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

    with pytest.raises(Unavailable, match="no answer from the store"):
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


async def answer_of(queue: Any) -> object:
    counts = queue.counts()
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
