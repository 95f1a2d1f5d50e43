"""The audit of a queue in memory. Each job is in one place by construction; notes about jobs may be wrong."""

from collections import Counter
from collections.abc import Callable, Iterator

from redisjobs.drivers.memory.pushes import living
from redisjobs.drivers.memory.state import Memory, answers
from redisjobs.model.health import Audit, Audited, CheckServer, Fault, ServerFacts
from redisjobs.model.job import State


@answers(Audit)
def _audit(memory: Memory, change: Audit) -> Audited:
    faults = []
    for fault, repair in list(_faults(memory)):
        if change.repair:
            repair()
        faults.append(Fault(fault.kind, fault.what, change.repair))
    names = Counter(job.name for job in memory.waiting())
    return Audited("", "memory", len(memory.jobs), len(memory.jobs), faults, dict(names))


def _faults(memory: Memory) -> Iterator[tuple[Fault, Callable[[], object]]]:
    for job_id in memory.held:
        if living(memory, job_id) is None:
            yield Fault("held", job_id), lambda job_id=job_id: memory.held.pop(job_id)  # type: ignore[misc]
    for key, (job_id, until_ms) in memory.uniques.items():
        job = living(memory, job_id)
        if until_ms == float("inf") and (job is None or job.state is State.DEAD):
            yield Fault("unique", key), lambda key=key: memory.uniques.pop(key)  # type: ignore[misc]
    running = {job.id for job in memory.running()}
    for line in memory.lines.values():
        for job_id in line.running - running:
            yield Fault("share", job_id), lambda line=line, job_id=job_id: line.running.discard(job_id)  # type: ignore[misc]


@answers(CheckServer)
def _check_server(memory: Memory, query: CheckServer) -> ServerFacts:
    return ServerFacts(memory.now_ms())
