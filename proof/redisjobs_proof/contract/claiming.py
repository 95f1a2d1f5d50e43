"""Jobs are pushed, claimed and done; delayed jobs, priorities, and what an exchange reports of further jobs."""

from redisjobs.model.driver import Consumer
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Find
from redisjobs.model.transitions import Ack, After, At, Lease, Pushed, Reply
from redisjobs_proof.contract.acts import PRIORITIES, Open, Slots, claim, found, ids, job, push, texts
from redisjobs_proof.contract.store import DriverStore


async def test_a_pushed_job_is_claimed_and_settled_once(store: DriverStore, one: Consumer) -> None:
    pushed = await push(store, "a")

    exchange = await one.exchange([], 10)
    (lease,) = exchange.leases
    settled = await one.exchange([(lease, Ack())], 10)

    assert pushed == [Pushed(Reply.OK)]
    assert (lease.job_id, lease.deliveries) == ("a", 1)
    assert texts(lease.fields) == {"id": "a", "name": "Work", "parameters": "{}"}
    assert abs(exchange.server_ms - store.clock()) < 60_000
    assert (settled.replies, settled.leases) == ([Reply.OK], [])
    assert await store.driver.read(Find("a")) is None


async def test_jobs_go_strictly_by_priority_and_first_in_first_out_inside(
    store: DriverStore, one: Consumer
) -> None:
    for number, priority in enumerate(PRIORITIES[::-1] * 3):
        await push(store, job(f"{priority} {number}", priority=priority))

    one_by_one = [await claim(one, 1) for _ in range(4)]
    the_rest = await claim(one)

    order = ["high 2", "high 5", "high 8", "normal 1", "normal 4", "normal 7", "low 0", "low 3", "low 6"]
    assert [lease.job_id for leases in one_by_one for lease in leases] + ids(the_rest) == order
    rows = [await found(store, lease.job_id) for lease in the_rest]
    assert [row.priority for row in rows] == [*[Priority.NORMAL] * 2, *[Priority.LOW] * 3]


async def test_many_jobs_are_pushed_and_claimed_in_one_exchange_each(store: DriverStore, one: Consumer) -> None:
    pushed = await push(store, *(f"job {number}" for number in range(300)))
    leases = await claim(one, 299)
    settled = await one.exchange([(lease, Ack()) for lease in leases], 299)

    assert pushed == [Pushed(Reply.OK)] * 300
    assert ids(leases) == [f"job {number}" for number in range(299)]
    assert settled.replies == [Reply.OK] * 299
    assert ids(list(settled.leases)) == ["job 299"]


async def test_an_exchange_without_a_count_settles_only(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", job("b", due=After(1000)))
    store.clock.advance(2)

    exchange = await one.exchange([], None)

    assert (exchange.leases, exchange.due_in, exchange.server_ms) == ((), None, 0)
    assert (await found(store, "a")).state is State.READY
    assert (await found(store, "b")).state is State.DELAYED


async def test_a_claim_of_none_only_promotes(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", job("b", due=After(1000)))
    store.clock.advance(2)

    exchange = await one.exchange([], 0)

    assert exchange.leases == []
    assert (await found(store, "b")).state is State.READY
    assert ids(await claim(one)) == ["a", "b"]


async def test_a_delayed_job_waits_until_it_is_due(store: DriverStore, one: Consumer) -> None:
    store.clock.advance(0)
    now_ms = store.clock()
    await push(store, job("relative", due=After(1000)), job("absolute", due=At(now_ms + 2000)))

    assert (await one.exchange([], 10)).due_in == 1.0
    store.clock.advance(0.999)
    assert await claim(one) == []
    store.clock.advance(0.001)
    assert (await one.exchange([], 0)).more  # it promoted the job for the next claim
    exchange = await one.exchange([], 10)
    assert (ids(list(exchange.leases)), exchange.due_in) == (["relative"], 1.0)
    store.clock.advance(1)
    await one.exchange([], 0)
    exchange = await one.exchange([], 10)
    assert (ids(list(exchange.leases)), exchange.due_in) == (["absolute"], None)
    assert exchange.server_ms == now_ms + 2000
    assert exchange.leases[0].fields[b"queued_at"] == b"%d" % now_ms


async def test_jobs_are_promoted_by_due_time_into_their_priority(store: DriverStore, one: Consumer) -> None:
    await push(store, job("third", due=After(3000)), job("first", due=After(1000)), job("second", due=After(2000)))
    await push(store, job("urgent", due=After(4000), priority=Priority.HIGH), job("not yet", due=After(9000)))
    await push(store, "ready before")
    store.clock.advance(5)

    assert ids(await claim(one)) == ["urgent", "ready before", "first", "second", "third"]


async def test_an_id_given_twice_in_one_push_is_one_job(store: DriverStore, worker: Open) -> None:
    assert await push(store, "a", "a") == [Pushed(Reply.OK), Pushed(Reply.EXISTS)]
    assert ids(await claim(await worker())) == ["a"]


async def test_a_job_that_expires_carries_the_time(store: DriverStore, worker: Open) -> None:
    store.clock.advance(0)
    await push(store, job("a", expires_in_ms=5000), job("b", expires_in_ms=5000, due=After(1)))
    store.clock.advance(1)

    expires = [lease.fields[b"expires_at"] for lease in await claim(await worker())]
    assert expires == [b"%d" % (store.clock() + 4000)] * 2


async def test_what_comes_with_a_higher_priority_is_the_first_of_the_next_exchange(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, *(f"normal {number}" for number in range(4)))
    assert ids(list((await one.exchange([], 1)).leases)) == ["normal 0"]

    await push(store, job("urgent", priority=Priority.HIGH))
    assert ids(list((await one.exchange([], 1)).leases))[0] == "urgent"
    await push(store, job("soon", due=After(1000), priority=Priority.HIGH))
    store.clock.advance(2)
    assert ids(list((await one.exchange([], 1)).leases))[0] == "soon"


async def test_an_exchange_that_brings_nothing_though_there_is_something_says_so(
    store: DriverStore, one: Consumer
) -> None:
    assert not (await one.exchange([], 5)).more
    await push(store, "a", job("urgent", priority=Priority.HIGH))

    brought: list[Lease] = []
    for _ in range(4):
        answer = await one.exchange([], 1)
        assert len(answer.leases) <= 1
        brought += answer.leases
        assert answer.leases or answer.more
        if len(brought) == 2:
            break

    assert sorted(ids(brought)) == ["a", "urgent"]
    assert not answer.more


async def test_a_job_of_higher_priority_that_came_since_the_last_claim_is_the_next_to_start(
    store: DriverStore, worker: Open
) -> None:
    slots = Slots(await worker())
    await push(store, *(job(f"low {number}", priority=Priority.LOW) for number in range(6)))
    assert await slots.claim(1) == ["low 0"]
    await push(store, *(job(f"high {number}", priority=Priority.HIGH) for number in range(3)))
    assert await slots.claim(2) == ["high 0", "high 1"]
    await push(store, *(job(f"normal {number}") for number in range(2)))
    assert (await slots.claim(2))[0] == "high 2"  # this claim may not have looked for more
    await push(store, job("high 3", priority=Priority.HIGH))
    assert await slots.claim(1) == ["high 3"]
    while len(slots.started) < 12:
        await slots.claim(2)

    assert [name for name in slots.started if name[:4] != "high"] == [
        "low 0",
        *("normal 0", "normal 1"),
        *(f"low {number}" for number in range(1, 6)),
    ]
