"""A dead letter is requeued with other parameters: by the type of its handler, or as JSON where there is none."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from operating import FACES, done
from store import RedisStore, Store

from redisjobs import DriverError, EncodeError, JobQueue, UniqueConflict, Worker
from redisjobs.model.changes import Requeue
from redisjobs.model.driver import Driver
from redisjobs.model.job import State
from redisjobs.model.queries import Find
from redisjobs.model.transitions import DeadLetter, NewJob, Reply
from redisjobs.model.why import Ahead
from redisjobs.queue import JobQueue as AsyncQueue

pytestmark = pytest.mark.anyio


@dataclass
class Mail:
    job_name: ClassVar[str] = "Mail"
    to: str
    copies: int = 1


@pytest.fixture(params=FACES)
async def queue(request: pytest.FixtureRequest, store: Store, driver: Driver) -> AsyncIterator[Any]:
    """A queue of either face on the store, with a handler for mails."""
    where: Any = store.url if isinstance(store, RedisStore) else driver
    queue = FACES[request.param](where, store.queue_name, max_parameters=1000)
    queue.register(Mail)(print)
    yield queue
    await (queue.aclose() if isinstance(queue, AsyncQueue) else queue._disconnect())


async def die(
    store: Store,
    job_id: str,
    name: str = "Mail",
    parameters: str = '{"to":"joe"}',
    fields: Sequence[str] = (),
) -> None:
    """Push a job, and make it a dead letter."""
    worker = store.consumer(f"killer-of-{job_id}")
    await worker.open()
    all_fields = ["name", name, "parameters", parameters, "headers", '{"trace":"1"}', *fields]
    unique = fields[1] if fields else ""
    await store.driver.push([NewJob(job_id, all_fields, unique=unique)], repeated=False)
    answer = await worker.exchange([], 1)
    while not answer.leases:
        answer = await worker.exchange([], 1)
    await worker.exchange([(answer.leases[0], DeadLetter("failed", "ValueError: no"))], None)
    await worker.aclose()


async def test_a_letter_gets_other_parameters_and_keeps_all_else(store: Store, driver: Driver) -> None:
    await die(store, "a")

    assert await driver.change(Requeue("a", parameters=b'{"to":"jane"}')) is Reply.OK

    row = await driver.read(Find("a"))
    assert row is not None
    assert row.state is State.READY
    fields = {name: row.fields[name] for name in (b"name", b"parameters", b"headers")}
    assert fields == {b"name": b"Mail", b"parameters": b'{"to":"jane"}', b"headers": b'{"trace":"1"}'}
    assert b"reason" not in row.fields


@pytest.mark.parametrize("parameters", [Mail("jane", 2), {"to": "jane", "copies": 2}], ids=["typed", "a dict"])
async def test_parameters_of_a_known_name_are_those_of_its_type(store: Store, queue: Any, parameters: Any) -> None:
    await die(store, "a")

    assert await done(queue.control.requeue("a", parameters=parameters)) is Reply.OK

    job = await done(queue.get("a"))
    assert (job.state, job.parameters) == ("ready", '{"to":"jane","copies":2}')


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"to": 5}, r"^Mail\.to: should be a valid string \(got int\)$"),
        ({"to": "joe", "cc": "x"}, "Mail: can't make a Mail of what was given: .*cc"),
        (["jane"], r"Mail: .*\(got list\)"),
        (Mail("j" * 1000), "Mail: parameters take 1,020 bytes of JSON, the limit is 1,000"),
    ],
    ids=["another type", "a key too many", "no mail", "too large"],
)
async def test_what_does_not_fit_the_type_is_refused_and_the_letter_stays(
    store: Store, queue: Any, parameters: Any, said: str
) -> None:
    await die(store, "a")

    with pytest.raises(EncodeError, match=said):
        await done(queue.control.requeue("a", parameters=parameters))

    job = await done(queue.get("a"))
    assert (job.state, job.parameters) == ("dead", '{"to":"joe"}')


async def test_a_job_with_other_parameters_is_counted_under_the_key_that_its_handler_gives_for_these(
    store: Store, queue: Any
) -> None:
    @dataclass
    class Export:
        job_name: ClassVar[str] = "Export"
        tenant: str

    queue.register(Export, limit_key=lambda export: export.tenant)(print)
    await die(store, "a", name="Export", parameters='{"tenant":"ann"}')

    with pytest.raises(EncodeError, match="Export: limit_key= gave no key for these parameters"):
        await done(queue.control.requeue("a", parameters={"tenant": ""}))
    assert (await done(queue.get("a"))).state == "dead"
    assert await done(queue.control.requeue("a", parameters={"tenant": "joe"})) is Reply.OK

    row = await store.driver.read(Find("a"))
    assert row is not None
    assert (row.fields[b"parameters"], row.fields[b"limit_key"]) == (b'{"tenant":"joe"}', b"joe")


async def test_parameters_of_a_name_that_is_not_known_here_are_what_json_can_say(store: Store, queue: Any) -> None:
    await die(store, "a", name="Other")
    value: Any = {"é": [1, 2.5, True, None, 2**70, []]}

    assert await done(queue.control.requeue("a", parameters=value)) is Reply.OK

    job = await done(queue.get("a"))
    assert job.parameters == '{"é":[1,2.5,true,null,1180591620717411303424,[]]}'


@pytest.mark.parametrize(
    "parameters", [(1, 2), {1: "a"}, float("nan"), {"a": Mail("joe")}, b"{}", "\ud800", ["x" * 1000]]
)
async def test_what_json_can_not_say_as_it_is_is_refused(store: Store, queue: Any, parameters: Any) -> None:
    await die(store, "a", name="Other")

    with pytest.raises(EncodeError, match=r"^Other: "):
        await done(queue.control.requeue("a", parameters=parameters))

    assert (await done(queue.get("a"))).state == "dead"


async def test_there_is_nothing_to_edit_in_a_job_that_is_no_dead_letter(store: Store, queue: Any) -> None:
    job = await done(queue.push(Mail("joe")))

    assert await done(queue.control.requeue(job, parameters=Mail("jane"))) is None
    assert await done(queue.control.requeue("unknown", parameters=Mail("jane"))) is None

    assert (await done(queue.get(job))).parameters == '{"to":"joe","copies":1}'


@pytest.mark.parametrize("parameters", [None, Mail("joe")], ids=["its own key", "edited"])
async def test_a_letter_whose_unique_key_is_held_stays_and_the_holder_is_named(
    store: Store, queue: Any, parameters: Mail | None
) -> None:
    await die(store, "a", fields=["unique", "key"])
    holder = await done(queue.push(Mail("jane"), unique="key"))

    with pytest.raises(UniqueConflict, match=f"a stays: the job {holder.id} holds its unique key now") as raised:
        await done(queue.control.requeue("a", parameters=parameters))

    assert raised.value.job_ids == (holder.id,)
    assert (await done(queue.get("a"))).state == "dead"


async def test_a_letter_whose_key_follows_from_new_parameters_names_who_holds_that_one(
    store: Store, queue: Any
) -> None:
    @dataclass
    class Once:
        job_name: ClassVar[str] = "Once"
        to: str

    queue.register(Once, unique="{to}")(print)
    await die(store, "a", name="Once", fields=["unique", "joe"])
    holder = await done(queue.push(Once("jane")))

    with pytest.raises(UniqueConflict) as raised:
        await done(queue.control.requeue("a", parameters=Once("jane")))

    assert raised.value.job_id == holder.id


async def test_a_conflict_is_told_even_if_its_holder_can_not_be_found(
    store: Store, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await die(store, "a", fields=["unique", "key"])
    queue = JobQueue(driver, store.queue_name)
    queue.register(Mail)(print)
    await queue.push(Mail("joe"), unique="key")
    read = driver.read

    async def refused(query: Any) -> Any:
        if isinstance(query, Ahead):
            raise DriverError("no permissions")
        return await read(query)

    monkeypatch.setattr(driver, "read", refused)

    with pytest.raises(UniqueConflict, match="a stays: another job holds its unique key now") as raised:
        await queue.control.requeue("a")

    assert raised.value.job_ids == ()


async def test_the_handler_gets_what_the_letter_was_given(store: Store, driver: Driver) -> None:
    got: list[str] = []
    queue = JobQueue(driver, store.queue_name)

    @queue.job
    async def charge(card: str, cents: int) -> None:
        got.append(f"{card} {cents}")

    await die(store, "a", name="charge", parameters='{"card":"visa"}')
    assert await queue.control.requeue("a", parameters={"card": "amex", "cents": 5})
    await Worker(queue).run(until_idle=True)

    assert got == ["amex 5"]
