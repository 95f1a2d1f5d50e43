"""What users give for a cluster or for sentinels, right or wrong: it leads to the server, or to one line."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest
import redis
import redis.asyncio
import typer.testing
from redis.cluster import ClusterNode

from redisjobs import DriverError, JobQueue, Unavailable, Worker, server
from redisjobs.cli.app import make
from redisjobs.drivers.redis.locator import slot_of
from redisjobs.model.health import Level
from redisjobs.model.job import Priority
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs.torture.proxy import Proxy
from redisjobs.torture.topology import Cluster, Sentinels, _Sentinel, ask, until

pytestmark = pytest.mark.anyio

HOST = server.HOST
node_of: Any = ClusterNode


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    """A master with replicas, and three sentinels."""
    with Sentinels() as sentinels:
        yield sentinels


@contextmanager
def one_node(*options: str, slots: bool = True) -> Iterator[server.Server]:
    """A cluster of one node, which serves no keys in the first two seconds; see `ready`."""
    words = ["--cluster-enabled", "yes", "--cluster-port", str(server.free_port()), *options]
    with server.start(options=words) as node:
        if slots:
            ask(node, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        yield node


def ready(node: server.Server) -> server.Server:
    """Wait until a cluster of one node serves keys."""
    until(lambda: b"cluster_state:ok" in ask(node, "CLUSTER", "INFO"), "the cluster is ok")
    return node


@pytest.fixture(scope="module")
def node() -> Iterator[server.Server]:
    with one_node() as node:
        yield node


@pytest.fixture(scope="module")
def master() -> Iterator[server.Server]:
    with server.start() as master:
        yield master


@contextmanager
def one_sentinel(master: server.Server) -> Iterator[server.Server]:
    """A sentinel that watches a server as `jobs`."""
    with _Sentinel(server.find(), None, server.free_port(), []) as sentinel:
        ask(sentinel, "SENTINEL", "MONITOR", "jobs", HOST, str(master.port), "1")
        yield sentinel


@pytest.fixture(scope="module")
def sentinel(master: server.Server) -> Iterator[server.Server]:
    with one_sentinel(master) as sentinel:
        yield sentinel


async def run_jobs(where: Any, queue_name: str) -> None:
    """Push, wait, run and look, over each kind of connection that there is."""
    async with JobQueue(where, queue_name) as queue:
        worker = Worker(queue, lease=1.5)

        @queue.register(Add, keep_result=60)
        async def add(add: Add) -> int:
            return add.a + 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            assert await queue.run(Add(1), timeout=10) == 2
            with SyncJobQueue(where, queue_name) as producer:
                job = await anyio.to_thread.run_sync(producer.push, Add(2))
                assert await queue.result(job.id, timeout=10) == 3
                assert [each.worker_id for each in producer.workers()] == [worker.worker_id]
            worker.stop()
        assert (await queue.counts()).totals["completed"] == 2


def refusal(where: Any, queue_name: str, deadline: float = 0.3) -> DriverError:
    """The error of a push, which has added nothing."""
    with SyncJobQueue(where, queue_name, deadline=deadline) as queue, pytest.raises(DriverError) as caught:
        queue.push(Add(1))
    assert "\n" not in str(caught.value)
    return caught.value


# What leads to the queue's server


def url_of(cluster: Cluster) -> str:
    return cluster.url


def client_of(cluster: Cluster) -> Any:
    return redis.RedisCluster(host=HOST, port=cluster.servers[1].port)


def client_of_nodes(cluster: Cluster) -> Any:
    return redis.RedisCluster(startup_nodes=[node_of(HOST, each.port) for each in cluster.servers[:2]])


def async_client_of(cluster: Cluster) -> Any:
    return redis.asyncio.RedisCluster(host=HOST, port=cluster.servers[1].port)


@pytest.mark.slow
@pytest.mark.parametrize("make", [url_of, client_of, client_of_nodes, async_client_of])
async def test_a_cluster_can_be_given_by_its_url_or_by_a_client_of_redis_py(
    cluster: Cluster, queue_name: str, make: Callable[[Cluster], Any]
) -> None:
    await run_jobs(make(cluster), queue_name)


@pytest.mark.slow
async def test_an_async_client_of_a_cluster_can_be_given_after_its_first_call(
    cluster: Cluster, queue_name: str
) -> None:
    async with async_client_of(cluster) as client:
        await client.get("x")
        await run_jobs(client, queue_name)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
async def test_one_address_of_a_cluster_is_enough_whichever_node_is_there(
    cluster: Cluster, queue_name: str, number: int
) -> None:
    await run_jobs(cluster.servers[number].url, queue_name)


@pytest.mark.slow
@pytest.mark.parametrize("make", [redis.Sentinel, redis.asyncio.Sentinel])
async def test_a_master_can_be_given_by_a_client_of_redis_pys_sentinel(
    sentinels: Sentinels, queue_name: str, make: Callable[..., Any]
) -> None:
    hosts = [(HOST, each.port) for each in sentinels.sentinels]
    await run_jobs(make(hosts).master_for(sentinels.name, db=3), queue_name)
    assert redis.Redis(port=sentinels.owner().port, db=3).exists(f"redisjobs:{{{queue_name}}}:stats")


@pytest.mark.slow
@pytest.mark.parametrize("make", [redis.RedisCluster, redis.asyncio.RedisCluster])
async def test_behind_nat_every_connection_goes_to_the_addresses_of_the_clients_remap(
    cluster: Cluster, queue_name: str, make: Callable[..., Any]
) -> None:
    with ExitStack() as stack:
        proxies = {each.port: stack.enter_context(Proxy(HOST, each.port)) for each in cluster.servers}
        reached = {proxy.port for proxy in proxies.values()}

        def remap(address: tuple[str, int]) -> tuple[str, int]:
            host, port = address
            return (host, proxies[port].port) if port in proxies else address

        first = next(iter(proxies.values()))
        client = make(host=HOST, port=first.port, address_remap=remap)
        with only_to(reached):
            await run_jobs(client, queue_name)
        assert proxies[cluster.owner(queue_name).port].request_bytes > 0


@contextmanager
def only_to(ports: set[int]) -> Iterator[None]:
    """Meanwhile a connection of ours to any other port is an error."""
    asked = list[int]()
    kinds: list[Any] = [redis.connection.Connection, redis.asyncio.connection.Connection]

    def noting(connect: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def note(self: Any) -> Any:
            asked.append(int(self.port))
            return connect(self)

        return note

    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:
            patch.setattr(kind, "connect", noting(kind.connect))
        yield
    assert asked
    assert set(asked) <= ports


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["cluster", "sentinels"])
def test_commands_take_the_url_and_show_it_without_passwords(
    request: pytest.FixtureRequest, queue_name: str, topology: str
) -> None:
    there = request.getfixturevalue(topology)
    database = "" if topology == "cluster" else "/2"
    url = there.url.removesuffix("/0").replace("://", "://default:secret@") + database
    if topology == "sentinels":
        url += "?sentinel_username=default&sentinel_password=secret"
    shown = there.url.removesuffix("/0").replace("://", "://default@") + database

    def run(*arguments: str, **environment: str) -> typer.testing.Result:
        return typer.testing.CliRunner().invoke(make(), arguments, env=environment, catch_exceptions=False)

    counted = run("stats", "--queue", queue_name, "--url", url)
    asked = run("doctor", "--queue", queue_name, REDISJOBS_URL=url)

    assert "".join(counted.stdout.split()).count(shown) == 2
    assert f"queue '{queue_name}' at {shown}" in asked.stdout
    assert "entries, locators and notes agree with each other" in asked.stdout
    assert "secret" not in counted.stdout + asked.stdout


# One address, as a cloud's serverless Redis or Valkey


SERVERLESS = [
    word for name in ("CLIENT", "INFO", "CONFIG", "SLOWLOG", "ACL") for word in ("--rename-command", name, "")
]
"""A cluster whose one address is all that it tells, and that does not know some commands."""


@pytest.fixture(scope="module")
def serverless() -> Iterator[server.Server]:
    with one_node(*SERVERLESS) as node:
        yield ready(node)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_a_cluster_of_one_address_that_lacks_commands_runs_jobs_and_the_doctor_says_what_it_can(
    serverless: server.Server, queue_name: str, scheme: str
) -> None:
    url = serverless.url.replace("redis:", f"{scheme}:")
    await run_jobs(url, queue_name)
    with SyncJobQueue(url, queue_name) as queue:
        queue.push(Add(1))
        found = queue.doctor()
    assert [each.sentence for each in found if each.level is Level.ERROR] == [
        "No worker is alive, and 1 job waits."
    ]
    assert [each.check for each in found if each.level is Level.UNKNOWN] == ["memory", "permissions", "slow calls"]


# What leads nowhere


def test_a_database_other_than_0_is_refused_by_a_cluster(node: server.Server, queue_name: str) -> None:
    assert "a cluster has only database 0, not 3" in str(refusal(node.url.replace("/0", "/3"), queue_name))


def test_a_cluster_without_an_owner_of_the_slot_may_have_one_later(queue_name: str) -> None:
    with one_node(slots=False) as node:
        said = refusal(node.url.replace("redis:", "redis+cluster:"), queue_name)
        plain = refusal(node.url, queue_name)
        assert isinstance(said, Unavailable)
        assert f"no node of the cluster says who owns slot {slot_of(queue_name)} now" in str(said)
        assert f"{HOST}:{node.port} knows no owner" in str(said)
        assert isinstance(plain, Unavailable)
        assert "Hash slot not served" in str(plain)


@pytest.mark.slow
def test_of_nodes_that_disagree_none_gets_a_job_until_they_agree(cluster: Cluster, queue_name: str) -> None:
    slot, owner = str(slot_of(queue_name)), cluster.owner(queue_name)
    other = next(each for each in cluster.servers[:3] if each is not owner)
    names = [ask(each, "CLUSTER", "MYID") for each in (owner, other)]
    urls = [f"redis+cluster://{HOST}:{owner.port}", other.url]
    ask(owner, "CLUSTER", "SETSLOT", slot, "NODE", names[1])
    try:
        said = [refusal(url, queue_name, deadline=0.5) for url in urls]
    finally:
        ask(owner, "CLUSTER", "SETSLOT", slot, "NODE", names[0])
    assert [isinstance(each, Unavailable) and f" {slot} {HOST}:" in str(each) for each in said] == [True, True]
    for url in urls:
        with SyncJobQueue(url, queue_name) as queue:
            assert queue.counts().ready[Priority.NORMAL] == 0
            queue.push(Add(1))
            assert queue.cancel_all("ready") == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "redis+sentinel://{server}/jobs/0",
            "{server} is no sentinel: give the addresses of sentinels, or write redis://{server}",
        ),
        (
            "redis+sentinel://{node}/jobs/0",
            "{node} is no sentinel: give the addresses of sentinels, or write redis://{node}",
        ),
        ("redis+cluster://{server}", "{server} is no node of a cluster: write redis://{server}"),
        (
            "redis+cluster://{sentinel}",
            "{sentinel} is no node of a cluster: if it is a sentinel, write redis+sentinel://{sentinel}/NAME/0",
        ),
        ("redis://{sentinel}/0", "a sentinel answers at this address: write redis+sentinel://HOST:26379/NAME/0"),
        ("redis://{sentinel}/2", "a sentinel answers at this address: write redis+sentinel://HOST:26379/NAME/0"),
        (
            "redis+sentinel://{sentinel}/jbos/0",
            "no sentinel monitors a master named 'jbos' ({sentinel}): correct the name in the URL",
        ),
    ],
)
async def test_a_url_of_another_topology_is_an_error_at_once_with_the_one_to_write(
    master: server.Server, node: server.Server, sentinel: server.Server, queue_name: str, url: str, said: str
) -> None:
    at = {"server": master, "node": node, "sentinel": sentinel}
    hosts = {name: f"{HOST}:{each.port}" for name, each in at.items()}
    error = refusal(url.format(**hosts), queue_name, deadline=30)
    assert not isinstance(error, Unavailable)
    assert said.format(**hosts) in str(error)

    async with JobQueue(url.format(**hosts), queue_name) as queue:
        with pytest.raises(DriverError) as caught:
            await queue.push(Add(1))
        with pytest.raises(DriverError) as ended:
            await Worker(queue).run()
    assert str(caught.value) == str(error)
    assert said.format(**hosts) in str(ended.value)


@pytest.mark.slow
async def test_addresses_of_another_topology_among_the_right_ones_do_no_harm(
    master: server.Server, node: server.Server, sentinel: server.Server, queue_name: str
) -> None:
    await run_jobs(
        f"redis+cluster://{HOST}:{master.port},{HOST}:{sentinel.port},{HOST}:{ready(node).port}", queue_name
    )
    await run_jobs(f"redis+sentinel://{HOST}:{node.port},{HOST}:{sentinel.port}/jobs/0", queue_name)


@pytest.mark.parametrize(
    ("at_sentinel", "at_server", "userinfo", "query", "said"),
    [
        ("sp", "", "", "", "the sentinel at {sentinel} refused the credentials (Authentication required."),
        ("sp", "mp", ":mp@", "", "give its own as ?sentinel_username=…&sentinel_password=…"),
        ("", "mp", "", "?sentinel_password=mp", "the sentinel at {sentinel} refused the credentials"),
        (
            "sp",
            "mp",
            "",
            "?sentinel_password=sp",
            "the master at {server} refused the credentials (Authentication required.",
        ),
        (
            "",
            "mp",
            ":wrong@",
            "",
            "the master at {server} refused the credentials (invalid username-password pair",
        ),
        ("", "", ":mp@", "", "write them before the hosts, as redis+sentinel://USER:PASSWORD@…"),
        ("sp", "mp", ":mp@", "?sentinel_password=sp", ""),
        ("", "mp", ":mp@", "", ""),
    ],
)
async def test_sentinels_and_their_master_each_have_credentials_of_their_own(
    queue_name: str, at_sentinel: str, at_server: str, userinfo: str, query: str, said: str
) -> None:
    with server.start() as master, one_sentinel(master) as sentinel:
        if at_server:
            ask(sentinel, "SENTINEL", "SET", "jobs", "auth-pass", at_server)
        for each, password in ((master, at_server), (sentinel, at_sentinel)):
            if password:
                ask(each, "ACL", "SETUSER", "default", "resetpass", f">{password}")
        url = f"redis+sentinel://{userinfo}{HOST}:{sentinel.port}/jobs/0{query}"
        if said:
            error = refusal(url, queue_name, deadline=30)
            assert not isinstance(error, Unavailable)
            assert said.format(sentinel=f"{HOST}:{sentinel.port}", server=f"{HOST}:{master.port}") in str(error)
        else:
            await run_jobs(url, queue_name)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["rediss+cluster://{}", "rediss+sentinel://{}/jobs/0"])
def test_tls_where_there_is_none_is_said_although_the_deadline_ends_the_search(
    node: server.Server, queue_name: str, url: str
) -> None:
    scheme = url.partition(":")[0]
    said = str(refusal(url.format(f"{HOST}:{node.port}"), queue_name, deadline=2.2))
    assert f"{HOST}:{node.port}: Timeout" in said
    assert (
        f"the URL says {scheme}://: if the server does not use TLS, write {scheme.replace('ss', 's', 1)}://"
        in said
    )
