"""The actions of the page: each is a POST of a plain form, carried out by a method of the queue."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from redisjobs.base.arguments import pause_of
from redisjobs.base.visible import number_of, visible
from redisjobs.control.requeuing import GO_ON
from redisjobs.errors import DecodeError, DriverError, EncodeError, Forbidden, Unavailable, UniqueConflict
from redisjobs.model import payload
from redisjobs.model.job import Priority, PushedJob, State
from redisjobs.model.transitions import Reply
from redisjobs.web.board.access import Verb
from redisjobs.web.board.bulk import KINDS, Bulk
from redisjobs.web.board.filters import Filters
from redisjobs.web.board.form import ActionOutcome, Form, UnchangedJob, Wrong
from redisjobs.web.board.visit import Missing, ViewAnswer, Visit
from redisjobs.web.pages import forms

_LONGEST_DELAY = 366 * 86_400.0
_MOST_AT_ONCE = 1_000_000
_GREATEST = 1e15  # number of a step
_MOST_READ = 20  # jobs whose children are counted before a cancel

DONE = {
    "retried": "Retried {}.",
    "retried-independent": "Retried {}. The parent of a child had gone on, so the child is a job by itself.",
    "deleted": "Deleted {}.",
    "cancelled": "Cancelled {}. A running handler ends a moment later.",
    "held": "Held {}.",
    "let": "{} may start again.",
    "signalled": "Sent the signal: the job took it, and goes on.",
    "signal-kept": "Sent the signal: the job finds it when it waits for it.",
    "paused": "Paused.",
    "resumed": "Resumed.",
    "pushed": "Pushed a job.",
    "schedule-paused": "Paused the schedule.",
    "schedule-resumed": "Resumed the schedule.",
    "schedule-removed": "Removed the schedule.",
    "worker-quiet": "Asked. A quiet worker claims no more jobs, and its running jobs go on.",
    "worker-resumed": "Asked. The worker claims jobs again.",
    "worker-stopped": "Asked. The worker ends when its running jobs have ended, or its grace is over.",
    "limited": "Set the limit.",
    "unlimited": "Removed the limit.",
}
"""What a page says after an action; the viewer's link only holds the word and a count."""


@dataclass(frozen=True, slots=True)
class Action:
    """An action of the page.

    Attributes:
        verb: What a viewer must be allowed; None if the action itself checks.
        run: Carries it out.
        asks: The question before it, if it can't be undone, or what returns the question; '' where there is none.
        label: The button that answers the question.
    """

    verb: Verb | None
    run: Callable[[Visit, Form], Awaitable[ActionOutcome | ViewAnswer]]
    asks: str | Callable[[Visit, Form], Awaitable[str]] = ""
    label: str = ""


async def _each(
    done: str, ids: Sequence[str], change: Callable[[str], Awaitable[str]], **options: Any
) -> ActionOutcome:
    """Change each job; `change` returns why it was not changed, or ''."""
    refused = list[UnchangedJob]()
    for job_id in ids:
        holder = ""
        try:
            why = await change(job_id)
        except (Forbidden, Unavailable):
            raise
        except UniqueConflict as error:
            why, holder = _HELD, error.job_id
        except (DecodeError, EncodeError, DriverError) as error:  # the jobs before it are changed
            why = str(error)
        if why:
            refused.append(UnchangedJob(job_id, why, holder))
    return ActionOutcome(done, len(ids) - len(refused), refused, **options)


_GONE = "it is not there any more: it was changed meanwhile"
_HELD = "another job holds its unique key"
_NO_STEP = "The job has not saved this step. Nothing was changed."


# Jobs


async def _retry(visit: Visit, form: Form) -> ActionOutcome:
    # Only a form of an ended job has `ended`: a dead letter may have run since its page was read.
    number, replies = form.whole("from_step", "The step", _GREATEST), list[Reply | None]()

    async def change(job_id: str) -> str:
        step = GO_ON if number is None else await _step(visit, job_id, number)
        ended = form.get("ended") == "1"
        try:
            reply = await visit.board.control.requeue(job_id, ended=ended, from_step=step)
        except ValueError:  # the error names its steps, which may be hidden
            raise Wrong(_NO_STEP) from None
        replies.append(reply)
        return "" if reply else _GONE

    outcome = await _each("retried", form.ids, change)
    return replace(outcome, done=_retried(replies))


def _retried(replies: Sequence[Reply | None]) -> str:
    return "retried-independent" if Reply.INDEPENDENT in replies else "retried"


async def _step(visit: Visit, job_id: str, number: int) -> str | None:
    """Return the key of the step that has a number; None for 0, which means from the start."""
    if number == 0:
        return None
    for step in await visit.board.control.steps(job_id):
        if step.number == number:
            return step.key
    raise Wrong(_NO_STEP)


async def _asks_to_run_again(visit: Visit, form: Form) -> str:
    if form.get("from_step"):
        return (
            "Run this job again from the chosen step? It forgets that step and those after it, and calls their "
            "functions again."
        )
    return "This job has ended and is no dead letter. Run it again?" if form.get("ended") == "1" else ""


async def _delete(visit: Visit, form: Form) -> ActionOutcome:
    async def change(job_id: str) -> str:
        return "" if await visit.board.control.delete(job_id) else _GONE

    return await _each("deleted", form.ids, change)


async def _cancel(visit: Visit, form: Form) -> ActionOutcome:
    async def change(job_id: str) -> str:
        return _why(await visit.board.queue.cancel(job_id), Reply.CANCELLED, Reply.CANCELLING)

    return await _each("cancelled", form.ids, change)


async def _asks_to_cancel(visit: Visit, form: Form) -> str:
    left = 0
    with suppress(Forbidden):
        for job_id in form.ids[:_MOST_READ]:
            left += sum(group.left for group in await visit.board.control.children(job_id, limit=0))
    more = f", and {number_of(left, 'child', 'children')} that {'has' if left == 1 else 'have'} not ended" * (
        left > 0
    )
    return f"Cancel {number_of(len(form.ids), 'job')}{more}? This can't be undone."


async def _hold(visit: Visit, form: Form) -> ActionOutcome:
    async def change(job_id: str) -> str:
        return _why(await visit.board.control.hold(job_id), Reply.HELD)

    return await _each("held", form.ids, change)


async def _unhold(visit: Visit, form: Form) -> ActionOutcome:
    async def change(job_id: str) -> str:
        return "" if await visit.board.control.unhold(job_id) else "it is not held"

    return await _each("let", form.ids, change)


def _why(reply: Reply, *done: Reply) -> str:
    if reply in done:
        return ""
    known = {Reply.RUNNING: "it runs, and goes on", Reply.DEAD: "it is a dead letter", Reply.NOT_FOUND: _GONE}
    return known.get(reply, str(reply))


async def _signal(visit: Visit, form: Form) -> ActionOutcome:
    (job_id,) = form.ids[:1]
    text = form.get("value").strip().encode("utf-8", "surrogateescape") or b"null"
    try:
        value = payload.decode_untyped("The value", text)
    except DecodeError as error:
        raise Wrong(f'{error}. A text has quotes, as "ann".') from None
    reply = await visit.board.queue.signal(job_id, form.get("name").strip(), value)
    if reply in (Reply.OK, Reply.KEPT):
        return ActionOutcome("signalled" if reply is Reply.OK else "signal-kept")
    exists = "it keeps an earlier signal of this name, which it has not waited for"
    return ActionOutcome("signalled", 0, [UnchangedJob(job_id, exists if reply is Reply.EXISTS else _why(reply))])


async def _edit(visit: Visit, form: Form) -> ActionOutcome | ViewAnswer:
    (job_id,) = form.ids[:1]
    text = form.get("parameters")
    found = await visit.board.queue.get(job_id)
    if found is None:
        raise Missing("There is no job with this id any more.")
    try:
        parameters = _typed(visit, found.name, text)
        reply = await visit.board.control.requeue(job_id, parameters=parameters, ended=form.get("ended") == "1")
        if reply is None:
            raise Wrong("The job is not there any more: it was changed meanwhile. Nothing was changed.")
    except (DecodeError, EncodeError) as error:
        return await forms.edit_form(visit, job_id, text, str(error))
    except UniqueConflict as error:
        return ActionOutcome("retried", 0, [UnchangedJob(job_id, _HELD, error.job_id)])
    return ActionOutcome(_retried([reply]), job_id=job_id)


async def _push(visit: Visit, form: Form) -> ActionOutcome | ViewAnswer:
    given = dict(form.fields)
    name, queue = given.get("name", ""), visit.board.queue
    try:
        if name not in queue.definitions:
            raise Wrong(f"No handler here has the name '{visible(name, 60)}'.")
        parameters = _typed(visit, name, given.get("parameters", ""))
        delay = form.number("delay", "The delay", _LONGEST_DELAY)
        priority = given.get("priority", Priority.NORMAL)
        if priority not in {*Priority}:
            raise Wrong("The priority is high, normal or low.")
        handle = await queue.push(
            parameters,
            queue.definitions[name].name,
            job_id=given.get("id") or None,
            delay=delay or 0,
            priority=Priority(priority),
        )
    except (DecodeError, EncodeError, Wrong, ValueError) as error:
        return forms.push_form(visit, given, str(error))
    if not handle.added and handle.id == given.get("id"):
        return ActionOutcome(
            "pushed", 0, [UnchangedJob(handle.id, "this form was sent before, and has pushed this job")]
        )
    return _pushed(handle)


def _pushed(handle: PushedJob) -> ActionOutcome:
    if handle.added:
        return ActionOutcome("pushed", job_id=handle.id)
    return ActionOutcome(
        "pushed", 0, [UnchangedJob(handle.id, "this job holds the unique key, so nothing was pushed")]
    )


def _typed(visit: Visit, name: str, text: str) -> Any:
    """Return parameters that were typed as JSON: as the type of the job's handler, or else as plain JSON.

    Raises:
        DecodeError: They don't fit.
    """
    raw = text.encode("utf-8", "surrogateescape")
    definitions = visit.board.queue.definitions
    if name in definitions:
        return payload.read_parameters(definitions[name].name, raw)
    value = payload.decode_untyped("the text", raw)
    if value is None:
        raise DecodeError("null are no parameters: give an object, as {}")
    return value


# The queue, schedules, limits


async def _pause(visit: Visit, form: Form) -> ActionOutcome:
    await visit.board.control.pause(form.get("name") or None)
    return ActionOutcome("paused")


async def _resume(visit: Visit, form: Form) -> ActionOutcome:
    await visit.board.control.resume(form.get("name") or None)
    return ActionOutcome("resumed")


def _of_schedule(done: str, method: str) -> Callable[[Visit, Form], Awaitable[ActionOutcome]]:
    async def run(visit: Visit, form: Form) -> ActionOutcome:
        if not await getattr(visit.board.queue.schedules, method)(form.get("name")):
            raise Wrong("There is no such schedule any more.")
        return ActionOutcome(done)

    return run


async def _run_schedule(visit: Visit, form: Form) -> ActionOutcome:
    handle = await visit.board.queue.schedules.run_now(form.get("name"))
    return _pushed(handle)


def _asks_to_remove(what: str) -> Callable[[Visit, Form], Awaitable[str]]:
    async def asks(visit: Visit, form: Form) -> str:
        return f"Remove the {what} '{visible(form.get('name'), 80)}'?"

    return asks


async def _limit(visit: Visit, form: Form) -> ActionOutcome:
    most = form.whole("max_concurrency", "The number of jobs at once", _MOST_AT_ONCE)
    burst = form.whole("burst", "The burst", _MOST_AT_ONCE)
    rate = form.get("rate").strip() or None
    if most is None and rate is None:
        raise Wrong("Give a number of jobs at once, or a rate as 50/s, 100/m or 5/h.")
    await visit.board.control.set_limit(
        form.get("name").strip(),
        max_concurrency=most,
        rate=rate,
        burst=burst,
    )
    return ActionOutcome("limited")


async def _unlimit(visit: Visit, form: Form) -> ActionOutcome:
    await visit.board.control.set_limit(form.get("name"))
    return ActionOutcome("unlimited")


# Workers


def _of_workers(done: str, method: str) -> Callable[[Visit, Form], Awaitable[ActionOutcome]]:
    async def run(visit: Visit, form: Form) -> ActionOutcome:
        async def change(worker_id: str) -> str:
            reply = await getattr(visit.board.control, method)(worker_id)
            return {Reply.NOT_FOUND: "it has ended", Reply.STOPPING: "it stops already"}.get(reply, "")

        return await _each(done, await _workers(visit, form), change)

    return run


async def _workers(visit: Visit, form: Form) -> list[str]:
    """Return the id of the chosen worker, or of all workers of the chosen host that live and don't stop.

    Raises:
        Wrong: There is none.
    """
    if worker := form.get("worker"):
        return [worker]
    there = [each for each in await visit.board.workers() if each.lease > 0 and not each.stopping]
    if not (found := [each.worker_id for each in there if each.host == form.get("host")]):
        raise Wrong("No worker of this host is alive, or all stop already.")
    return found


async def _asks_to_stop(visit: Visit, form: Form) -> str:
    ids = await _workers(visit, form)
    what = f"worker {visible(ids[0], 80)}" if form.get("worker") else number_of(len(ids), "worker")
    where = f" of host {visible(form.get('host'), 80)}" if not form.get("worker") else ""
    return f"Stop {what}{where}? Running jobs may finish within the grace. This can't be undone."


# Acts on all jobs that match


async def _count_bulk(visit: Visit, form: Form) -> ActionOutcome:
    word, given = form.get("kind"), dict(form.fields)
    filters = Filters.of(given, State.DEAD)
    if word not in KINDS or KINDS[word].verb not in visit.verbs or filters.state not in KINDS[word].states:
        raise Missing("There is no such action.")
    if left_out := filters.left_out(given):  # without it, the act would choose more jobs than were meant
        raise Wrong(f"The filter by {left_out} can't be used for jobs that are {filters.state}.")
    if "text" in filters.chosen and visit.board.redaction.hides:
        raise Wrong(
            "Texts of the jobs are hidden here, so no act can choose jobs by a text: the number of jobs would "
            "tell what is hidden. Select the jobs one by one."
        )
    bulk = Bulk(visit.board.registry, word, filters)
    if not visit.bulks.add(bulk):
        raise Wrong("Other acts on many jobs go on. Wait until one has ended.")
    return ActionOutcome("", to=visit.url("bulk", id=bulk.id))


async def _start_bulk(visit: Visit, form: Form) -> ActionOutcome | ViewAnswer:
    bulk = _bulk(visit, form)
    rate = form.get("rate").strip() or None
    if rate is not None:
        try:
            pause_of(rate)
        except ValueError:
            return forms.bulk_page(visit, bulk, "The pace is a number of jobs a time: 100/s, 20/m or 5/h.")
    visit.bulks.start(bulk, rate)
    return ActionOutcome("", to=visit.url("bulk", id=bulk.id))


async def _stop_bulk(visit: Visit, form: Form) -> ActionOutcome:
    bulk = _bulk(visit, form)
    bulk.stop()
    return ActionOutcome("", to=visit.url("bulk", id=bulk.id))


def _bulk(visit: Visit, form: Form) -> Bulk:
    bulk = visit.bulks.get(form.get("id"))
    if bulk is None or bulk.kind.verb not in visit.verbs:
        raise Missing("There is no such act in this process. The queue itself shows what was done.")
    return bulk


# The doctor


async def _check(visit: Visit, form: Form) -> ActionOutcome:
    visit.board.checkup.start(repair=False)  # if a run goes on, the page shows that one
    return ActionOutcome("", to=visit.url("doctor"))


async def _repair(visit: Visit, form: Form) -> ActionOutcome:
    if not visit.board.checkup.start(repair=True):
        raise Wrong("A check goes on. Wait until it has ended, or stop it.")
    return ActionOutcome("", to=visit.url("doctor"))


async def _stop_check(visit: Visit, form: Form) -> ActionOutcome:
    if visit.board.checkup.repairs and Verb.REPAIR not in visit.verbs:
        raise Wrong("This run repairs, and you may not repair here.")
    visit.board.checkup.stop()
    return ActionOutcome("", to=visit.url("doctor"))


ACTIONS = {
    "retry": Action(Verb.RETRY, _retry, _asks_to_run_again, "Run again"),
    "edit": Action(Verb.EDIT, _edit),
    "delete": Action(Verb.DELETE, _delete, "Delete {}? This can't be undone.", "Delete"),
    "cancel": Action(Verb.CANCEL, _cancel, _asks_to_cancel, "Cancel the jobs"),
    "hold": Action(Verb.HOLD, _hold),
    "unhold": Action(Verb.HOLD, _unhold),
    "signal": Action(Verb.SIGNAL, _signal),
    "pause": Action(Verb.PAUSE, _pause),
    "resume": Action(Verb.PAUSE, _resume),
    "push": Action(Verb.PUSH, _push),
    "run-schedule": Action(Verb.SCHEDULE, _run_schedule),
    "pause-schedule": Action(Verb.SCHEDULE, _of_schedule("schedule-paused", "pause")),
    "resume-schedule": Action(Verb.SCHEDULE, _of_schedule("schedule-resumed", "resume")),
    "remove-schedule": Action(
        Verb.SCHEDULE, _of_schedule("schedule-removed", "remove"), _asks_to_remove("schedule"), "Remove it"
    ),
    "quiet-worker": Action(Verb.QUIET, _of_workers("worker-quiet", "quiet_worker")),
    "resume-worker": Action(Verb.QUIET, _of_workers("worker-resumed", "resume_worker")),
    "stop-worker": Action(Verb.STOP, _of_workers("worker-stopped", "stop_worker"), _asks_to_stop, "Stop"),
    "limit": Action(Verb.LIMIT, _limit),
    "unlimit": Action(Verb.LIMIT, _unlimit, _asks_to_remove("limit of"), "Remove it"),
    "check": Action(None, _check),
    "stop-check": Action(None, _stop_check),
    "repair": Action(
        Verb.REPAIR,
        _repair,
        "Check the queue again, and repair what loses nothing? No entry is deleted that could be a job.",
        "Repair",
    ),
    "count-bulk": Action(None, _count_bulk),
    "start-bulk": Action(None, _start_bulk),
    "stop-bulk": Action(None, _stop_bulk),
}
"""The actions, by the last part of their address."""
