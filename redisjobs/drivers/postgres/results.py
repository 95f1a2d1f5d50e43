"""How jobs have ended, for processes that wait for them."""

from collections.abc import Sequence
from typing import Any

from redisjobs.drivers.postgres.calls import Call, answer_of, answers
from redisjobs.drivers.postgres.entries import bytes_of, text_of
from redisjobs.model.changes import Ending, GetStatus, JobStatus


@answers(GetStatus)
def _get_status(change: GetStatus) -> Call[list[JobStatus]]:
    ids = [text_of(job_id) for job_id in change.job_ids]
    parse = answer_of(lambda found: [_status(each) for each in found])
    return Call("await", [ids, text_of(change.process)], parse) if change.process else Call("status", [ids], parse)


def _status(found: Sequence[Any]) -> JobStatus:
    ending, place, keep, progress, value, *error = found
    return JobStatus(Ending(ending), place, keep, bytes_of(progress), bytes_of(value), *error)
