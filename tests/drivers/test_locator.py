"""Where the server is: what a locator asks, what it makes of the answers, and what a URL or a client says."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, MovedError, ReadOnlyError, ResponseError

from redisjobs.drivers.redis.commands import Commands
from redisjobs.drivers.redis.locator import Address, BySentinel, BySlot, Fixed, Locator, Question, slot_of
from redisjobs.drivers.redis.origin import origin_of
from redisjobs.errors import DriverError, Unavailable

A, B, C = (Address("10.0.0.1", port) for port in (7001, 7002, 7003))
REPLICA = Address("10.0.0.8", 7009)
S, T = (Address("10.0.0.9", port) for port in (26379, 26380))


Answers = Callable[[Question], Any]


def found(locator: Locator, answer: Answers) -> tuple[Address | None, list[Address]]:
    """Run a search; return what it found, and whom it asked."""
    search, asked = locator.search(), list[Address]()
    try:
        question = next(search)
        while True:
            asked.append(question.address)
            reply = answer(question)
            question = search.send(reply if isinstance(reply, Exception | tuple) else [reply])
    except StopIteration as end:
        return end.value, asked


def refused(locator: Locator, answer: Answers) -> DriverError:
    with pytest.raises(DriverError) as caught:
        found(locator, answer)
    return caught.value


def slots(*ranges: tuple[int, int, Address]) -> list[Any]:
    """CLUSTER SLOTS, as it is answered: each range with its primary, and a replica."""
    return [
        [first, last, [node.host.encode(), node.port, b"id"], [REPLICA.host.encode(), REPLICA.port, b"id"]]
        for first, last, node in ranges
    ]


def master(node: Address, epoch: int = 0, former: Address | None = None) -> tuple[list[bytes], list[bytes]]:
    """SENTINEL MASTER, which names the former master until the replicas are reconfigured, and its address."""
    named = former or node
    facts = {"name": "jobs", "ip": named.host, "port": named.port, "config-epoch": epoch}
    words = [str(word).encode() for pair in facts.items() for word in pair]
    return words, [node.host.encode(), str(node.port).encode()]


HELLO = [b"server", b"valkey", b"version", b"8.0", b"role", b"master"]


# One server


def test_a_fixed_server_needs_no_question() -> None:
    fixed = Fixed(A)
    fixed.doubt(A, ReadOnlyError("READONLY"))
    assert found(fixed, lambda _: pytest.fail("asked")) == (A, [])


# Clusters


@pytest.mark.parametrize("queue", ["emails", "ü", "a:b", "0"])
def test_the_slot_of_a_queue_is_that_of_its_keys(queue: str) -> None:
    assert slot_of(queue) == key_slot(f"{Commands(queue).prefix}jobs".encode())


def test_the_owner_of_the_slot_is_found_and_then_known() -> None:
    locator = BySlot([A, B], 100)
    assert found(locator, lambda _: slots((0, 99, A), (100, 16383, C))) == (C, [A])
    assert locator.known == C


def test_nodes_that_were_told_of_are_asked_when_those_given_are_gone() -> None:
    locator = BySlot([A], 5)
    found(locator, lambda _: slots((0, 99, A), (100, 16383, B)))
    gone = {A: ConnectionError("gone"), REPLICA: ConnectionError("gone")}
    locator.doubt(A, gone[A])
    there, asked = found(locator, lambda question: gone.get(question.address, slots((0, 16383, B))))
    assert (there, asked[-1]) == (B, B)


@pytest.mark.parametrize("given", [[A, B, C], [C]], ids=["known nodes", "one node"])
def test_a_replica_that_has_just_taken_over_is_asked_before_a_node_that_does_not_know_is_believed(
    given: list[Address],
) -> None:
    locator = BySlot(given, 5)
    found(locator, lambda _: slots((0, 16383, B)))
    locator.doubt(B, Unavailable("late"))

    def answer(question: Question) -> Any:
        return slots((0, 16383, REPLICA if question.address == REPLICA else B))

    assert found(locator, answer)[0] == REPLICA


def test_the_owner_is_still_the_owner_if_its_replicas_do_not_answer() -> None:
    locator = BySlot([A], 5)
    found(locator, lambda _: slots((0, 16383, B)))
    locator.doubt(B, Unavailable("late"))
    gone = {REPLICA: ConnectionError("gone"), A: ConnectionError("gone")}
    assert found(locator, lambda question: gone.get(question.address, slots((0, 16383, B))))[0] == B


def test_nodes_that_have_left_the_cluster_are_asked_no_more() -> None:
    locator, asked = BySlot([A], 5), list[Address]()
    for port in range(10):
        found(locator, lambda _, port=port: slots((0, 16383, Address("10.0.0.7", port))))  # type: ignore[misc]

    def away(question: Question) -> ConnectionError:
        asked.append(question.address)
        return ConnectionError("away")

    refused(locator, away)
    assert sorted(asked) == [A, Address("10.0.0.7", 9), REPLICA]


def test_the_node_that_failed_is_asked_after_the_others() -> None:
    locator = BySlot([A, B, C], 5)
    found(locator, lambda _: slots((0, 16383, B)))
    locator.doubt(B, ConnectionError())
    _, asked = found(locator, lambda _: slots((0, 16383, B)))
    assert asked == [C, REPLICA]


@pytest.mark.parametrize(
    "moved",
    [MovedError("5 10.0.0.1:7002"), ResponseError("MOVED 5 10.0.0.1:7002"), ResponseError("MOVED 5 :7002")],
    ids=["", "of an older redis-py", "without a host"],
)
def test_moved_names_the_owner_without_a_question_even_as_the_cause_of_an_error(moved: Exception) -> None:
    locator = BySlot([A], 5)
    found(locator, lambda _: slots((0, 16383, A)))
    error = Unavailable("moved")
    error.__cause__ = moved
    locator.doubt(A, error)
    assert locator.known == B


def test_a_host_that_is_left_out_is_the_one_that_was_asked() -> None:
    locator = BySlot([A], 5)
    assert found(locator, lambda _: [[0, 16383, [b"", 7002, b"id"]]])[0] == B
    locator.doubt(B, MovedError("5 :7003"))
    assert locator.known == C


def test_told_addresses_are_mapped_to_those_to_be_used() -> None:
    locator = BySlot([A], 5, lambda address: ("nat", address[1] + 1))
    assert found(locator, lambda _: slots((0, 16383, A)))[0] == Address("nat", 7002)


def test_what_an_old_connection_meets_says_nothing_of_the_server_found_since() -> None:
    locator = BySlot([A], 5)
    found(locator, lambda _: slots((0, 16383, B)))
    locator.doubt(A, ConnectionError())
    assert locator.known == B


def test_a_slot_that_has_no_owner_now_may_have_one_later() -> None:
    error = refused(BySlot([A], 5), lambda _: slots((6, 16383, A)))
    assert isinstance(error, Unavailable)
    assert "slot 5" in str(error)


def test_a_server_that_is_no_cluster_is_named_with_the_url_to_write() -> None:
    error = refused(BySlot([A], 5), lambda _: ResponseError("This instance has cluster support disabled"))
    assert not isinstance(error, Unavailable)
    assert "10.0.0.1:7001 is no node of a cluster: write redis://10.0.0.1:7001" in str(error)


# Sentinels


def answers_of(
    sentinels: dict[Address, Any], roles: dict[Address, str] | None = None
) -> Callable[[Question], Any]:
    def answer(question: Question) -> Any:
        if question.is_sentinel:
            return sentinels[question.address]
        role = (roles or {}).get(question.address, "master")
        return [*HELLO[:-1], role.encode()]

    return answer


def test_the_master_is_the_one_that_a_sentinel_names_if_it_says_so_itself() -> None:
    locator = BySentinel([S, T], "jobs")
    assert found(locator, answers_of({S: master(A), T: master(B)}, {A: "replica"})) == (B, [S, A, T, B, T])
    assert locator.known == B


def test_a_sentinel_that_has_not_heard_of_the_last_failover_is_not_believed() -> None:
    locator = BySentinel([S, T], "jobs")
    found(locator, answers_of({S: master(B, epoch=2)}))
    locator.hear(master(A, epoch=1))
    assert locator.known == B
    locator.doubt(B, ConnectionError())
    assert found(locator, answers_of({T: master(A, epoch=1), S: master(C, epoch=3)})) == (C, [T, S, C, S])


def test_when_a_call_to_the_master_has_failed_all_sentinels_are_asked_if_it_is_still_the_master() -> None:
    locator = BySentinel([S, T], "jobs")
    found(locator, answers_of({S: master(A, epoch=1)}))
    locator.doubt(A, Unavailable("late"))
    locator.hear(master(A, epoch=1))
    assert locator.known is None
    assert found(locator, answers_of({T: master(A, epoch=1), S: master(B, epoch=2)}))[0] == B

    locator.doubt(B, Unavailable("late"))
    there, asked = found(locator, answers_of({T: master(B, epoch=2), S: ConnectionError("gone")}))
    assert there == B
    assert {S, T} < set(asked)


def test_a_doubted_master_is_not_taken_when_another_one_is_named_that_is_not_ready() -> None:
    locator = BySentinel([S, T], "jobs")
    found(locator, answers_of({S: master(A, epoch=1)}))
    locator.doubt(A, Unavailable("late"))
    later = answers_of({T: master(A, epoch=1), S: master(B, epoch=2)}, {B: "slave"})
    assert isinstance(refused(locator, later), Unavailable)


def test_a_master_that_was_frozen_and_answers_late_is_not_taken_for_the_master() -> None:
    locator, said = BySentinel([S, T], "jobs"), iter([master(A), master(B, epoch=1)])

    def answer(question: Question) -> Any:
        if not question.is_sentinel:
            return HELLO
        return master(B, epoch=1) if question.address == T else next(said)

    assert found(locator, answer) == (B, [S, A, S, T, B, T])


def test_a_server_that_does_not_answer_is_asked_once_in_a_search() -> None:
    asked = list[Address]()

    def answer(question: Question) -> Any:
        asked.append(question.address)
        return master(A) if question.is_sentinel else TimeoutError()

    assert isinstance(refused(BySentinel([S, T], "jobs"), answer), Unavailable)
    assert asked == [S, A, T]


def test_sentinels_that_all_count_failovers_from_zero_again_are_believed() -> None:
    locator, later = BySentinel([S, T], "jobs"), answers_of({S: master(B, epoch=1), T: master(B)})
    found(locator, answers_of({S: master(A, epoch=5)}))
    locator.doubt(A, ConnectionError())
    assert isinstance(refused(locator, later), Unavailable)
    assert found(locator, later)[0] == B


def test_the_sentinel_that_leads_a_failover_names_the_promoted_replica_before_it_has_ended() -> None:
    locator = BySentinel([S, T], "jobs")
    found(locator, answers_of({S: master(A)}))
    locator.hear(master(B, epoch=1, former=A))
    assert locator.known == B


def test_what_is_heard_of_a_failover_counts_at_once() -> None:
    locator = BySentinel([S], "jobs")
    found(locator, answers_of({S: master(A)}))
    locator.hear(master(B, epoch=1))
    assert locator.known == B


def test_a_master_that_no_sentinel_knows_is_an_error_of_the_url() -> None:
    error = refused(BySentinel([S, T], "jbos"), lambda _: ResponseError("No such master with that name"))
    assert not isinstance(error, Unavailable)
    assert "no sentinel monitors a master named 'jbos'" in str(error)


def test_sentinels_that_do_not_answer_may_answer_later() -> None:
    error = refused(BySentinel([S, T], "jobs"), lambda _: ConnectionError("refused"))
    assert isinstance(error, Unavailable)


def test_sentinels_that_refuse_the_password_are_told_from_servers_that_do() -> None:
    error = refused(BySentinel([S], "jobs"), lambda _: AuthenticationError("invalid password"))
    assert not isinstance(error, Unavailable)
    assert "sentinel_password" in str(error)


@pytest.mark.parametrize(
    ("locator", "wrong", "passing"),
    [
        (BySlot([A, S], 5), ResponseError("This instance has cluster support disabled"), ConnectionError("away")),
        (BySlot([A, S], 5), AuthenticationError("of a stranger's server"), slots((6, 16383, S))),
        (BySentinel([T, S], "jobs"), AuthenticationError("invalid password"), ConnectionError("away")),
        (BySentinel([T, S], "jobs"), ResponseError("unknown command 'SENTINEL'"), master(A)),
    ],
)
def test_while_one_may_know_later_a_wrong_address_ends_no_search_for_good(
    locator: Locator, wrong: Exception, passing: Any
) -> None:
    def answer(question: Question) -> Any:
        if question.address == A and isinstance(locator, BySentinel):
            return [*HELLO[:-1], b"slave"]
        return passing if question.address == S else wrong

    error = refused(locator, answer)
    assert isinstance(error, Unavailable)
    assert str(wrong) in str(error) or "is no" in str(error)


def test_a_server_that_is_no_sentinel_is_named_with_the_url_to_write() -> None:
    unknown = ResponseError("unknown command 'SENTINEL', with args beginning with: 'MASTER' 'jobs'")
    assert "10.0.0.9:26379 is no sentinel" in str(refused(BySentinel([S], "jobs"), lambda _: unknown))


# URLs and clients


@pytest.mark.parametrize(
    ("url", "kind", "nodes", "shown"),
    [
        ("redis://h:1/2", Fixed, ["h:1"], "redis://h:1/2"),
        ("redis://h", Fixed, ["h:6379"], "redis://h:6379/0"),
        ("redis+cluster://h1:1,h2", BySlot, ["h1:1", "h2:6379"], "redis+cluster://h1:1,h2:6379"),
        ("redis+cluster://u:p@[::1]:7,h/0", BySlot, ["[::1]:7", "h:6379"], "redis+cluster://u@[::1]:7,h:6379"),
        ("rediss+cluster://h:1", BySlot, ["h:1"], "rediss+cluster://h:1"),
        ("redis+cluster://h:1,[::1]:2", BySlot, ["h:1", "[::1]:2"], "redis+cluster://h:1,[::1]:2"),
        (
            "redis+sentinel://s1,s2:2/jobs",
            BySentinel,
            ["s1:26379", "s2:2"],
            "redis+sentinel://s1:26379,s2:2/jobs/0",
        ),
        (
            "rediss+sentinel://:p@s:1/jobs/3?sentinel_password=q",
            BySentinel,
            ["s:1"],
            "rediss+sentinel://s:1/jobs/3",
        ),
    ],
)
def test_a_url_says_where_to_look(url: str, kind: type[Any], nodes: Sequence[str], shown: str) -> None:
    origin = origin_of(url)
    assert isinstance(origin.locator("emails"), kind)
    assert [str(node) for node in origin.nodes] == nodes
    assert origin.shown == shown


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://h1,h2:2/0", r"redis:// is for one address: write redis\+cluster://HOST,HOST for nodes"),
        ("rediss://:secret@h1:1,h2:2/0", r"or rediss\+sentinel://HOST,HOST/NAME/0 for sentinels"),
        ("redis+cluster://h/3", "a cluster has only database 0"),
        ("redis+cluster://", "is no address"),
        ("redis+cluster://h:port", "is no address"),
        ("redis+sentinel://s", "name the master"),
        ("redis+sentinel://s/jobs/x", "is no database"),
        ("redis+sentinel://:secret@s", "name the master"),
        ("redis+sentinel://s?sentinel_password=secret", "name the master"),
        ("redis://u:sec/secret@h:1/0", "the password has a /"),
        ("redis://:secret?@h", "the password has a /"),
        ("redis+cluster://u:secret#x@h", "the password has a /"),
        ("rediss+sentinel://u:s@secret/x@s/jobs/0", "the password has a /"),
        ("redis://u:7/secret@h", "the password has a /"),
    ],
)
def test_a_url_that_says_too_little_is_refused_without_its_password(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        origin_of(url)
    assert "secret" not in str(caught.value)


def test_the_sentinels_password_is_not_the_servers() -> None:
    origin = origin_of("redis+sentinel://u:p@s/jobs/0?sentinel_username=su&sentinel_password=sp")
    assert (origin.options["username"], origin.options["password"]) == ("u", "p")
    assert origin.sentinel_options == {"username": "su", "password": "sp"}


def test_a_client_of_a_sentinel_says_where_to_look() -> None:
    untyped: Any = redis.Sentinel  # in some releases of redis-py
    sentinel = untyped([("s1", 1), ("s2", 2)], sentinel_kwargs={"password": "sp"}, password="p")
    origin = origin_of(sentinel.master_for("jobs", db=2))
    assert [str(node) for node in origin.nodes] == ["s1:1", "s2:2"]
    assert (origin.master, origin.options["db"], origin.options["password"]) == ("jobs", 2, "p")
    assert origin.sentinel_options["password"] == "sp"
    with pytest.raises(ValueError, match="master_for"):
        origin_of(sentinel.slave_for("jobs"))
