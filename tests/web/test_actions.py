"""Each action of the page, by its form."""

import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import pytest
from store import RedisStore, eventually
from viewer import Mail, Viewer, dead, run_all, words

from redisjobs import JobQueue, Reply, Schedule, State, Worker
from redisjobs.client.operation import Operation, ask
from redisjobs.control.control import Control
from redisjobs.errors import DriverError
from redisjobs.model.changes import DeleteAll
from redisjobs.model.queries import Count, Filter
from redisjobs.web import Dashboard
from redisjobs.web.board.access import Verb, local
from redisjobs.web.board.bulk import Bulk, BulkPhase
from redisjobs.web.board.filters import Filters

pytestmark = pytest.mark.anyio


async def state_of(queue: JobQueue, job_id: str) -> State | None:
    found = await queue.get(job_id)
    return found.state if found else None


async def test_dead_letters_are_retried(mails: JobQueue, viewer: Viewer) -> None:
    ids = await dead(mails, 3)

    shown = await viewer.act("retry", id=ids[0], back="failures")

    assert "Retried 1 job." in shown
    assert [await state_of(mails, each) for each in ids] == [State.READY, State.DEAD, State.DEAD]


async def test_selected_jobs_are_changed_and_what_was_gone_is_named(mails: JobQueue, viewer: Viewer) -> None:
    ids = await dead(mails, 2)

    answer = await viewer.post("retry", [("id", ids[0]), ("id", "gone"), ("id", ids[1])])

    assert answer.status_code == 409
    assert "Retried 2 jobs. gone : it is not there any more" in words(answer.text)


async def test_a_delete_asks_first_and_names_the_count(mails: JobQueue, viewer: Viewer) -> None:
    ids = await dead(mails, 2)
    fields = [("id", each) for each in ids]

    asked = await viewer.post("delete", fields)

    assert "Delete 2 jobs? This can't be undone." in words(asked.text)
    assert (await mails.control.counts()).dead == 2
    assert (await viewer.post("delete", [*fields, ("sure", "1")])).status_code == 303
    assert (await mails.control.counts()).dead == 0


async def test_waiting_jobs_are_held_let_start_and_cancelled(mails: JobQueue, viewer: Viewer) -> None:
    handle = await mails.push(Mail("joe"))

    assert "Held 1 job." in await viewer.act("hold", id=handle.id, back="jobs")
    assert "It is held" in await viewer.see(f"job?id={handle.id}")
    assert "1 job may start again." in await viewer.act("unhold", id=handle.id)
    assert "Cancelled 1 job." in await viewer.act("cancel", id=handle.id, sure="1")
    assert await state_of(mails, handle.id) is None


async def test_a_kept_job_runs_again(mails: JobQueue, viewer: Viewer) -> None:
    handle = await mails.push(Mail("joe"))
    await run_all(mails)

    asked = await viewer.post("retry", {"id": handle.id, "ended": "1"})
    assert "Run it again?" in words(asked.text)
    assert await state_of(mails, handle.id) is State.COMPLETED
    await viewer.act("retry", id=handle.id, ended="1", sure="1")

    assert await state_of(mails, handle.id) is State.READY


@pytest.mark.parametrize("action", ["retry", "edit"])
async def test_a_dead_letter_that_was_done_meanwhile_does_not_run_again(
    mails: JobQueue, viewer: Viewer, action: str
) -> None:
    (job_id,) = await dead(mails)
    page = (await viewer.get(f"{'job' if action == 'retry' else 'edit'}?id={job_id}")).text
    form = re.search(rf'(?s)action="[^"]+/act/{action}">(.*?)</form>', page)
    assert form is not None
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[1]))
    await mails.control.requeue(job_id, parameters=Mail("joe"))  # by another viewer
    await run_all(mails)
    assert await state_of(mails, job_id) is State.COMPLETED

    answer = await viewer.post(action, {**fields, "parameters": '{"to": "ann"}'})

    assert answer.status_code in (409, 422)
    assert "is not there any more" in words(answer.text)
    assert await state_of(mails, job_id) is State.COMPLETED


async def test_edited_parameters_are_checked_by_the_jobs_type_and_stay_exact(
    mails: JobQueue, viewer: Viewer
) -> None:
    (job_id,) = await dead(mails)
    form = await viewer.see(f"edit?id={job_id}")
    assert '"to": "nowhere"' in form

    wrong = await viewer.post("edit", {"id": job_id, "parameters": '{"to": "joe", "number": "many"}'})
    assert wrong.status_code == 422
    assert "Mail.number: should be a valid integer" in words(wrong.text)
    assert await state_of(mails, job_id) is State.DEAD

    large = 2**80 + 1
    await viewer.act("edit", id=job_id, parameters=json.dumps({"to": "joe", "number": large}))
    await run_all(mails)
    assert await mails.result(job_id) == {"sent": large}


async def test_without_a_handler_the_edit_form_says_that_nothing_checks_the_type(
    mails: JobQueue, redis_store: RedisStore
) -> None:
    (job_id,) = await dead(mails)
    async with JobQueue(redis_store.driver, mails.name) as bare:
        viewer = Viewer(Dashboard(bare), bare.name)

        assert "No handler with this name is registered here" in await viewer.see(f"edit?id={job_id}")
        refused = await viewer.post("edit", {"id": job_id, "parameters": "{"})
        assert (refused.status_code, "is not JSON" in refused.text) == (422, True)
        await viewer.act("edit", id=job_id, parameters='{"to": "ann"}')
        found = await bare.get(job_id)
        assert found is not None
        assert (found.state, found.parameters) == (State.READY, '{"to":"ann"}')


async def test_the_queue_and_a_name_are_paused_and_resumed(mails: JobQueue, viewer: Viewer) -> None:
    assert "Paused." in await viewer.act("pause")
    assert await mails.control.is_paused()
    await viewer.act("resume")
    await viewer.act("pause", name="Mail")
    assert (await mails.control.is_paused(), await mails.control.is_paused("Mail")) == (False, True)


async def test_schedules_are_run_paused_resumed_and_removed(mails: JobQueue, viewer: Viewer) -> None:
    await mails.schedules.put("nightly", Mail("joe"), Schedule.cron("0 4 * * *"))

    assert "ready" in await viewer.act("run-schedule", name="nightly")
    assert len(await mails.control.jobs(State.READY)) == 1
    await viewer.act("pause-schedule", name="nightly", back="schedules")
    assert "paused" in await viewer.see("schedules")
    await viewer.act("resume-schedule", name="nightly", back="schedules")
    assert "Remove the schedule 'nightly'?" in words(
        (await viewer.post("remove-schedule", {"name": "nightly"})).text
    )
    await viewer.act("remove-schedule", name="nightly", sure="1", back="schedules")
    assert await mails.schedules.list() == []
    assert (await viewer.post("pause-schedule", {"name": "nightly"})).status_code == 422


async def test_a_worker_is_asked_to_be_quiet_to_go_on_and_to_stop(mails: JobQueue, viewer: Viewer) -> None:
    async with working(mails, "web-0") as (working_one,):
        worker = working_one.worker_id
        assert "alive" in await viewer.see("workers")

        shown = await viewer.act("quiet-worker", worker=worker, back="workers")
        assert "Asked. A quiet worker claims no more jobs" in shown
        assert "quiet 0 of" in shown
        await eventually(lambda: "quiet" in working_one.health.why)
        await mails.push(Mail("joe"))
        await viewer.act("quiet-worker", worker=worker)  # after an action the page reads again
        assert "No job starts: all workers are quiet, or stop. 1 ready." in await viewer.see()
        assert "alive" in await viewer.act("resume-worker", worker=worker, back="workers")

        asked = await viewer.post("stop-worker", {"worker": worker})
        assert f"Stop worker {worker}? Running jobs may finish within the grace." in words(asked.text)
        assert (await viewer.post("stop-worker", {"worker": worker, "sure": "1"})).status_code == 303
    gone = await viewer.post("quiet-worker", {"worker": worker})
    assert (gone.status_code, "it has ended" in gone.text) == (409, True)
    assert (await viewer.post("quiet-worker", {"host": "nowhere"})).status_code == 422


async def test_all_workers_of_a_host_are_asked_and_a_stop_names_how_many(mails: JobQueue, viewer: Viewer) -> None:
    host = socket.gethostname()
    async with working(mails, "a", "b") as workers:
        first, second = (worker.worker_id for worker in workers)
        assert f"All workers of {host}" in await viewer.see("workers")

        await viewer.act("quiet-worker", host=host, back="workers")
        await viewer.act("resume-worker", worker=first, back="workers")
        assert [(each.worker_id, each.quiet) for each in await mails.control.workers()] == [
            (first, False),
            (second, True),
        ]
        asked = await viewer.post("stop-worker", {"host": host})
        assert f"Stop 2 workers of host {host}?" in words(asked.text)
        await viewer.act("stop-worker", host=host, sure="1", back="workers")
    assert await mails.control.workers() == []


async def test_the_buttons_of_workers_are_those_of_the_verbs(mails: JobQueue) -> None:
    async with working(mails, "web-0") as (worker,):
        one = {"worker": worker.worker_id, "sure": "1"}
        for verb, other in (("quiet", "stop"), ("stop", "quiet")):
            viewer = Viewer(Dashboard(mails, access=local(frozenset({Verb(verb)}))), mails.name)
            page = (await viewer.get("workers")).text
            assert (f"act/{verb}-worker" in page, f"act/{other}-worker" in page) == (True, False)
            assert (await viewer.post(f"{other}-worker", one)).status_code == 403


@asynccontextmanager
async def working(queue: JobQueue, *names: str) -> AsyncIterator[list[Worker]]:
    """Workers of these names that have begun. At the end all have ended."""
    workers = [Worker(queue, worker_id=name) for name in names]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for worker in workers:
                tasks.start_soon(worker.run)
            here = socket.gethostname()
            while sum(each.host == here for each in await queue.control.workers()) < len(names):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            yield workers
            for worker in workers:
                worker.stop()


async def test_limits_are_set_and_removed(mails: JobQueue, viewer: Viewer) -> None:
    await viewer.act("limit", name="Mail", max_concurrency="3", rate="50/s", burst="", back="limits")
    (limit,) = await mails.control.limits()
    assert (limit.name, limit.max_concurrency, limit.rate) == ("Mail", 3, "50/s")

    for wrong in ({"rate": "often"}, {"max_concurrency": "2.7"}, {"rate": "50/s", "burst": "0.5"}):
        assert (await viewer.post("limit", {"name": "Mail", **wrong})).status_code == 422
    assert "Remove the limit of 'Mail'?" in words((await viewer.post("unlimit", {"name": "Mail"})).text)
    await viewer.act("unlimit", name="Mail", sure="1", back="limits")
    assert await mails.control.limits() == []


async def test_a_job_is_pushed_by_a_form_that_its_type_checks(mails: JobQueue, viewer: Viewer) -> None:
    assert "Which job? Mail" in await viewer.see("push")
    assert '{ "to": "" }' in await viewer.see("push?name=Mail")
    assert "to string number integer , may be left out" in await viewer.see("push?name=Mail")
    wrong = await viewer.post("push", {"name": "Mail", "parameters": '{"to": "joe", "nmber": 1}'})
    assert wrong.status_code == 422
    assert "Mail has no key 'nmber'" in words(wrong.text)
    assert '{"to": "joe", "nmber": 1}' in words(wrong.text)

    await viewer.act("push", name="Mail", parameters='{"to": "joe"}', priority="high", delay="60")
    (job,) = await mails.control.jobs(State.DELAYED)
    assert (job.name, job.priority, job.parameters) == ("Mail", "high", '{"to":"joe","number":0}')


async def test_a_form_that_is_sent_twice_pushes_one_job(mails: JobQueue, viewer: Viewer) -> None:
    found = re.search(r'name="id" value="([^"]+)"', (await viewer.get("push?name=Mail")).text)
    assert found is not None
    form = {"id": found[1], "name": "Mail", "parameters": '{"to": "joe"}'}

    assert (await viewer.post("push", {**form, "delay": "soon"})).text.count(found[1]) == 1
    assert (await viewer.post("push", form)).status_code == 303
    again = await viewer.post("push", form)

    assert "this form was sent before, and has pushed this job" in words(again.text)
    assert [job.job_id for job in await mails.control.jobs()] == [found[1]]


async def test_a_push_that_meets_a_unique_key_says_so(mails: JobQueue, viewer: Viewer) -> None:
    @dataclass
    class Once:
        job_name: ClassVar[str] = "Once"
        to: str

    @mails.register(Once, unique="{to}")
    async def once(parameters: Once) -> None: ...

    holder = await mails.push(Once("joe"))

    answer = await viewer.post("push", {"name": "Once", "parameters": '{"to": "joe"}'})

    assert answer.status_code == 409
    assert f"{holder.id} : this job holds the unique key, so nothing was pushed" in words(answer.text)


async def test_a_retry_that_meets_a_unique_key_links_its_holder(mails: JobQueue, viewer: Viewer) -> None:
    letter = await mails.push(Mail("nowhere"), unique="a <key>")
    await run_all(mails)
    holder = await mails.push(Mail("joe"), unique="a <key>")

    for action, fields in (("retry", {}), ("edit", {"parameters": '{"to": "ann"}'})):
        answer = await viewer.post(action, {"id": letter.id, **fields})

        assert answer.status_code == 409
        assert f"{letter.id} : another job holds its unique key: {holder.id}" in words(answer.text)
        assert f'href="{viewer.base}/job?id={holder.id}"' in answer.text


async def test_all_that_match_are_counted_before_anything_is_done(mails: JobQueue, viewer: Viewer) -> None:
    await dead(mails, 30)
    await mails.push(Mail("joe"))
    fingerprint = (await mails.control.dead_groups())[0].fingerprint

    counted = await viewer.post("count-bulk", {"kind": "retry", "state": "dead", "fingerprint": fingerprint})
    page = counted.headers["location"].removeprefix(f"{viewer.base}/")
    await shown(viewer, page, "Retry all 30 that match, counted")
    assert (await mails.control.counts()).dead == 30

    bulk = page.partition("id=")[2]
    wrong = await viewer.post("start-bulk", {"id": bulk, "rate": "often"})
    assert "The pace is a number of jobs a time" in words(wrong.text)
    await viewer.act("start-bulk", id=bulk, rate="1/m")
    await shown(viewer, page, "30 of 30 retried, at 1/m")
    counts = await mails.control.counts()
    assert (counts.dead, counts.delayed) == (0, 29)
    await viewer.act("start-bulk", id=bulk)  # a form that is sent twice does nothing more


@pytest.mark.parametrize(
    "wrong", [{"text": "x" * 1001}, {"age": "61"}, {"fingerprint": "\udcff"}, {"worker": "w"}]
)
async def test_an_act_on_many_jobs_never_leaves_out_a_filter(viewer: Viewer, wrong: dict[str, str]) -> None:
    state = {"kind": "cancel", "state": "ready"} if "worker" in wrong else {"kind": "delete", "state": "dead"}

    refused = await viewer.post("count-bulk", {**state, **wrong})

    assert refused.status_code == 422
    assert f"The filter by {next(iter(wrong))} can't be used" in words(refused.text)


async def test_an_act_on_many_jobs_names_one_job_as_one(mails: JobQueue, viewer: Viewer) -> None:
    await dead(mails)

    counted = await viewer.post("count-bulk", {"kind": "retry", "state": "dead"})

    page = counted.headers["location"].removeprefix(f"{viewer.base}/")
    await shown(viewer, page, "Retry the one job that matches, counted")
    await shown(viewer, page, "Retry 1 job Back")
    assert "1 dead letter, 1 cause" in await viewer.see("failures")


async def test_an_error_at_one_job_says_which_jobs_were_changed(
    mails: JobQueue, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await dead(mails, 2)
    requeue = Control.requeue

    async def full_at_the_second(self: Control, job: str, **options: Any) -> Reply | None:
        if job == second:
            raise DriverError("OOM command not allowed")
        return await requeue(self, job, **options)

    monkeypatch.setattr(Control, "requeue", full_at_the_second)
    answer = await viewer.post("retry", [("id", first), ("id", second)])

    assert answer.status_code == 409
    assert f"Retried 1 job. {second} : OOM command not allowed" in words(answer.text)


async def test_all_that_match_a_text_are_cancelled(mails: JobQueue, viewer: Viewer) -> None:
    await mails.push_many([Mail("joe"), Mail("ann"), Mail("joe")])

    counted = await viewer.post("count-bulk", {"kind": "cancel", "state": "ready", "text": "joe"})
    page = counted.headers["location"].removeprefix(f"{viewer.base}/")
    await shown(viewer, page, "Cancel all 2 that match")
    await viewer.act("start-bulk", id=page.partition("id=")[2])
    await shown(viewer, page, "2 of 2 cancelled Back to the jobs")

    assert [job.parameters for job in await mails.control.jobs(State.READY)] == ['{"to":"ann","number":0}']


async def test_an_act_on_many_jobs_stops_when_asked_and_keeps_what_is_done(mails: JobQueue) -> None:
    ids = await dead(mails, 2)

    def endless() -> Operation[int]:
        yield from ask(DeleteAll(Filter(), (yield from ask(DeleteAll())).after))
        while True:
            yield from ask(Count())

    bulk = Bulk(mails, "delete", Filters(State.DEAD, {}))
    bulk._begin(BulkPhase.RUNNING, BulkPhase.DONE, endless())
    await eventually(lambda: bulk.done == len(ids))
    bulk.stop()
    await eventually(lambda: not bulk.is_active)

    assert (bulk.phase, bulk.done) == (BulkPhase.STOPPED, 2)


async def test_an_act_on_many_jobs_that_fails_says_what_is_done(mails: JobQueue, viewer: Viewer) -> None:
    gone = JobQueue("redis://127.0.0.1:1/0", "gone", deadline=0.01)
    bulk = Bulk(gone, "retry", Filters(State.DEAD, {}))

    bulk.count()
    await eventually(lambda: not bulk.is_active, within=15)

    assert bulk.phase is BulkPhase.FAILED
    assert "gave up" in bulk.error


async def shown(viewer: Viewer, view: str, text: str) -> None:
    """Wait until a view shows a text."""
    with anyio.fail_after(5):
        while text not in (said := await viewer.see(view)):
            await anyio.sleep(0.01)
            assert "It ended early" not in said, said
