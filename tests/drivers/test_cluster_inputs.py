"""What users give for a cluster or for sentinels: each way leads to the server that has the queue."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio
import typer.testing
from redis.cluster import ClusterNode
from store import eventually
from topologies import HOST, Add, one_node, ready, run_jobs

from redisjobs import JobQueue, Worker
from redisjobs.cli.app import make
from redisjobs.local import server
from redisjobs.model.health import Level
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs_proof.torture.proxy import Proxy
from redisjobs_proof.torture.topology import Cluster, Sentinels

pytestmark = pytest.mark.anyio

node_of: Any = ClusterNode


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    """A master with replicas, and three sentinels."""
    with Sentinels() as sentinels:
        yield sentinels


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
@pytest.mark.parametrize("is_one", [True, False], ids=["one address", "a cluster's URL"])
async def test_a_worker_of_several_queues_beats_for_each_at_its_node(
    cluster: Cluster, queue_name: str, caplog: pytest.LogCaptureFixture, is_one: bool
) -> None:
    owners = dict[int, str]()  # a queue for each primary
    for number in range(100):
        owners.setdefault(cluster.owner(f"{queue_name}-{number}").port, f"{queue_name}-{number}")
    url = cluster.servers[0].url if is_one else cluster.url
    queues = [JobQueue(url, name) for name in owners.values()]
    worker = Worker(queues, lease=0.6)
    ends = {name: set[float]() for name in owners.values()}

    def have_moved() -> bool:
        for port, name in owners.items():
            with redis.Redis(port=port) as admin:
                ends[name] |= {
                    end for _, end in admin.zrange(f"redisjobs:{{{name}}}:workers", 0, -1, withscores=True)
                }
        return all(len(found) > 5 for found in ends.values())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(have_moved, within=10)
        worker.stop()
    for queue in queues:
        await queue.aclose()
    assert len(owners) == 3
    assert "no heartbeat got through" not in caplog.text


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
        found = queue.control.doctor()
    assert [each.sentence for each in found if each.level is Level.ERROR] == [
        "No worker is alive, and 1 job waits."
    ]
    assert [each.check for each in found if each.level is Level.UNKNOWN] == ["memory", "permissions", "slow calls"]
