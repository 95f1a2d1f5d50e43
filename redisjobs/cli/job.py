"""The command that shows one job."""

from redisjobs.cli import show
from redisjobs.cli.errors import Failure
from redisjobs.cli.target import JobId, Json, QueueName, Url, named
from redisjobs.server import DEFAULT_URL


def show_job(job_id: JobId, queue: QueueName = "default", url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show all that is known of one job."""
    with named(queue, url) as there:
        job = there.get(job_id)
    if job is None:
        raise Failure(f"no job {job_id!r} on queue '{queue}': it ended, or never was")
    if as_json:
        show.document(show.job_document(job))
    else:
        show.job_page(job)
