"""Where a job stands in line; see `Ahead`."""

from redisjobs.drivers.postgres.calls import Call, Meta, answer_of, answers
from redisjobs.drivers.postgres.entries import text_of
from redisjobs.model.why import Ahead, Standing

_MOST = 1_000


@answers(Ahead)
def _ahead(query: Ahead) -> Call[Standing]:
    return Call("ahead", [text_of(query.job_id), text_of(query.key)], answer_of(_standing))


def _standing(found: Meta) -> Standing:
    count = found.get("ahead", 0)
    return Standing(
        found["now"],
        found["id"],
        found.get("key_ms"),
        min(count, _MOST),
        count > _MOST,
        found.get("bucket", ""),
        found.get("turn"),
        found.get("limit") or "",
        found.get("running", 0),
        [(worker, job_id) for worker, job_id in found.get("holders") or ()],
        found.get("held"),
        found["promoter"],
        found.get("alike", 0),
        has_ended=found.get("has_ended", False),
    )
