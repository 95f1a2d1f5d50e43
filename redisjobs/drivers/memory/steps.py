"""The steps of jobs: saved results, suspended jobs, and what wakes them."""

from collections.abc import Mapping

from redisjobs.drivers.memory.history import noted
from redisjobs.drivers.memory.pushes import due_time, living
from redisjobs.drivers.memory.state import REMEMBERED, Memory, StoredJob, StoredSteps, answers, with_fields
from redisjobs.model.job import State
from redisjobs.model.steps import MOST_SIGNALS, MOST_STEP_BYTES, GetSteps, How, Saved, Signal, Steps, name_of
from redisjobs.model.transitions import Reply, SaveStep, Suspend, WaitsFor


def save(memory: Memory, job: StoredJob, step: SaveStep) -> Reply:
    """Save the result of a step, unless it is saved already."""
    steps = stored(memory, job, step.version)
    if not step.key:
        steps.checkpoint = step.value
    elif step.key in steps.saved:
        return Reply.EXISTS
    else:
        steps.saved[step.key] = Saved(step.number, memory.now_ms(), How.DONE, step.value)
    return Reply.OK


def stored(memory: Memory, job: StoredJob, version: int) -> StoredSteps:
    """Return what a job has saved; from now on it has saved something."""
    job.fields = with_fields(job.fields, {"steps": "1"})
    return memory.steps.setdefault(job.id, StoredSteps(version))


def suspend(memory: Memory, job: StoredJob, settlement: Suspend, *, has_children: bool) -> None:
    """Suspend a job, or make it ready at once if its wait is over; `has_children`: some have not ended."""
    now_ms, wait = memory.now_ms(), settlement.wait
    due_ms = None if settlement.due is None else due_time(settlement.due, now_ms)
    stored(memory, job, settlement.version)
    fields = {b"queued_at": b"%d" % min(job.since_ms, now_ms), **job.fields}
    notes = {
        "steps": "1",
        "suspended_at": str(now_ms),
        "waits": str(wait) if due_ms is None else f"{wait} {due_ms}",
    }
    job.fields = with_fields(fields, {**settlement.changes, **notes, **noted(job)})
    memory.count("suspended")
    kept = memory.signals.get(job.id, {}).pop(name_of(wait.key), None) if wait.what is WaitsFor.SIGNAL else None
    memory.put(job, memory.suspended)
    job.wait, job.due_ms = wait, 0 if due_ms is None else max(due_ms, 1)
    if kept is not None:
        wake(memory, job, How.SIGNAL, kept)
    elif settlement.group is not None and not has_children:
        wake(memory, job, How.CHILDREN, settlement.group.token.encode())
    elif due_ms is not None and due_ms <= now_ms:
        wake_late(memory, job)
    elif due_ms is not None and memory.next_due() == due_ms:
        memory.tell("due", str(due_ms))


def wake(memory: Memory, job: StoredJob, how: How, value: bytes = b"") -> None:
    """Make a suspended job ready, and save how its wait ended."""
    wait, job.wait, job.due_ms = job.wait, None, 0
    assert wait is not None
    memory.steps[job.id].saved[wait.key] = Saved(wait.number, memory.now_ms(), how, value)
    job.fields = with_fields(job.fields, {"waits": ""})
    memory.count("woken")
    memory.enqueue(job, 0)


def wake_late(memory: Memory, job: StoredJob) -> None:
    """Wake a job whose time has come."""
    assert job.wait is not None
    wake(memory, job, How.SLEPT if job.wait.what is WaitsFor.TIME else How.TIMEOUT)


def has_step(memory: Memory, job: StoredJob, key: str | None) -> bool:
    """Return whether a job has a step that it can be requeued from; None and '' need none."""
    return not key or (job.id in memory.steps and key in memory.steps[job.id].saved)


def forget_from(memory: Memory, job: StoredJob, key: str | None) -> list[str]:
    """Forget a step and all that were saved after it; '': all steps; None: nothing.

    Return the groups of children that go with it. A step that waits for its children is not saved, and goes too.
    """
    steps = memory.steps.get(job.id)
    if steps is None:  # it has ended, and was kept
        job.fields = with_fields(job.fields, {"steps": ""})
    if steps is None or key is None:
        return []
    first = steps.saved[key].number if key else 0
    steps.saved = {each: saved for each, saved in steps.saved.items() if saved.number < first}
    steps.checkpoint = None
    gone = [token for each, token in steps.groups.items() if each not in steps.saved]
    steps.groups = {each: token for each, token in steps.groups.items() if each in steps.saved}
    if not steps.saved:
        del memory.steps[job.id]
        job.fields = with_fields(job.fields, {"steps": ""})
    return gone


@answers(GetSteps)
def _get(memory: Memory, query: GetSteps) -> list[Steps | None]:
    return [steps_of(memory, job_id) for job_id in query.job_ids]


def steps_of(memory: Memory, job_id: str) -> Steps:
    """Return what a job has saved."""
    stored = memory.steps.get(job_id)
    if stored is None:
        return Steps()
    return Steps(dict(stored.saved), stored.checkpoint, stored.version, dict(stored.groups))


@answers(Signal)
def _signal(memory: Memory, signal: Signal) -> Reply:
    one, now_ms = (signal.job_id, signal.nonce.encode()), memory.now_ms()
    if memory.ended.current(one, now_ms):
        return Reply.OK
    job = living(memory, signal.job_id)
    if job is None or job.state is State.DEAD:
        return Reply.DEAD if job else Reply.NOT_FOUND
    if job.wait is not None and job.wait.what is WaitsFor.SIGNAL and name_of(job.wait.key) == signal.name:
        memory.ended.put(one, True, now_ms + REMEMBERED, now_ms)
        wake(memory, job, How.SIGNAL, signal.value)
        return Reply.OK
    kept = memory.signals.get(job.id, {})
    if signal.name in kept:
        return Reply.EXISTS
    if len(kept) == MOST_SIGNALS or _bytes_of(kept) + len(signal.value) > MOST_STEP_BYTES:
        return Reply.OVERSIZED
    memory.ended.put(one, True, now_ms + REMEMBERED, now_ms)
    memory.signals.setdefault(job.id, {})[signal.name] = signal.value
    return Reply.KEPT


def _bytes_of(kept: Mapping[str, bytes]) -> int:
    return sum(map(len, kept.values()))
