"""The command that cancels a job."""

from redisjobs.cli import show
from redisjobs.cli.errors import Failure
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import JobId, Json, QueueName, Url, named
from redisjobs.driver import Reply
from redisjobs.server import DEFAULT_URL


def cancel(job_id: JobId, queue: QueueName = "default", url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Cancel a job: one that waits is gone at once, one that runs has its handler cancelled."""
    with named(queue, url) as there:
        reply = there.cancel(job_id)
    said: dict[Reply, str] = {
        Reply.CANCELLED: "cancelled",
        Reply.CANCELLING: "it runs; its handler is being cancelled, and it won't run again",
    }
    if reply is Reply.DEAD:
        raise Failure(f"job {job_id!r} is a dead letter, and stays one; `redisjobs dead delete` removes it")
    if reply not in said:
        raise Failure(f"no job {job_id!r} on queue '{queue}': it ended, or never was")
    with telling(f"job {job_id!r}: {said[reply]}"):
        if as_json:
            show.document({"job_id": job_id, "result": reply.lower()})
        else:
            say(said[reply])
