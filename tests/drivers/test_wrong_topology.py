"""Another topology than the URL says, wrong credentials, a cluster that is down: one line, and no job is added."""

from collections.abc import Iterator

import pytest
from topologies import HOST, Add, one_node, one_sentinel, ready, refusal, run_jobs

from conftest import ENGINES
from redisjobs import DriverError, JobQueue, Unavailable, Worker
from redisjobs.drivers.redis.locator import slot_of
from redisjobs.local import server
from redisjobs.model.job import Priority
from redisjobs.sync import JobQueue as SyncJobQueue
from redisjobs_proof.torture.topology import Cluster, ask

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=ENGINES)
def binary(request: pytest.FixtureRequest) -> server.Binary:
    """Each server at hand, as each says such things in its own words."""
    return server.inspect(ENGINES[request.param])


@pytest.fixture(scope="module")
def node(binary: server.Binary) -> Iterator[server.Server]:
    with one_node(binary=binary) as node:
        yield node


@pytest.fixture(scope="module")
def master(binary: server.Binary) -> Iterator[server.Server]:
    with server.start(binary) as master:
        yield master


@pytest.fixture(scope="module")
def sentinel(master: server.Server, binary: server.Binary) -> Iterator[server.Server]:
    with one_sentinel(master, binary) as sentinel:
        yield sentinel


def test_a_database_that_a_server_or_a_cluster_does_not_have_is_refused(
    node: server.Server, master: server.Server, queue_name: str
) -> None:
    for url in (node.url.replace("/0", "/3"), master.url.replace("/0", "/16")):
        said = "; a cluster has only database 0: correct the number in the URL, or leave it out"
        error = refusal(url, queue_name)
        assert not isinstance(error, Unavailable)
        assert str(error) == f"the server has no database {url.rpartition('/')[2]}{said}"


def test_a_cluster_without_an_owner_of_the_slot_may_have_one_later(queue_name: str, binary: server.Binary) -> None:
    with one_node(slots=False, binary=binary) as node:
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
            assert queue.control.counts().ready[Priority.NORMAL] == 0
            queue.push(Add(1))
            assert queue.control.cancel_all("ready") == 1


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


@pytest.mark.slow
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
    queue_name: str,
    binary: server.Binary,
    at_sentinel: str,
    at_server: str,
    userinfo: str,
    query: str,
    said: str,
) -> None:
    with server.start(binary) as master, one_sentinel(master, binary) as sentinel:
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
