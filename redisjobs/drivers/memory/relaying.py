"""Pushes rows of an outbox, and remembers them until they are deleted."""

from redisjobs.drivers.memory.pushes import push
from redisjobs.drivers.memory.state import REMEMBERED, Memory, answers
from redisjobs.model.relaying import FindRelayed, ForgetRelayed, Relay, Relayed, row_name
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import NewJob, Pushed, Reply


@answers(Relay)
def _relay(memory: Memory, change: Relay) -> Relayed:
    now_ms = memory.now_ms()
    if change.read_ms is None or not 0 <= now_ms - change.read_ms <= LONGEST_TRY * 1000:
        return Relayed(now_ms, None)
    rows = memory.relayed.setdefault(change.outbox, {})
    return Relayed(now_ms, [_push(memory, rows, job) for job in change.jobs])


def _push(memory: Memory, rows: dict[str, int], job: NewJob) -> Pushed:
    name = row_name(job.job_id, job.nonce)
    if name in rows:
        return Pushed(Reply.REPEATED)
    (answer,) = push(memory, [job], repeated=False)
    rows[name] = memory.now_ms()
    return answer


@answers(FindRelayed)
def _find(memory: Memory, query: FindRelayed) -> list[str]:
    before = memory.now_ms() - query.older_ms
    rows = memory.relayed.get(query.outbox, {})
    return [name for name, since_ms in rows.items() if since_ms <= before][:500]


@answers(ForgetRelayed)
def _forget(memory: Memory, change: ForgetRelayed) -> Reply:
    now_ms, rows = memory.now_ms(), memory.relayed.get(change.outbox, {})
    for name in change.rows:
        rows.pop(name, None)
        nonce, _, job_id = name.rpartition(" ") if " " in name else ("", "", name)
        memory.ended.put((job_id, nonce.encode()), True, now_ms + REMEMBERED, now_ms)
    return Reply.OK
