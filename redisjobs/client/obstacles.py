"""The words for what keeps a job from starting: for `why`, and for the warning of a wait without a timeout."""

import shlex
from collections.abc import Mapping

from redisjobs.base.visible import visible
from redisjobs.model.job import WhyWaiting

OBSTACLES: Mapping[WhyWaiting, tuple[str, str]] = {
    WhyWaiting.HELD: ("it is held on {where}", "`redisjobs unhold {job}{on}` lets it start"),
    WhyWaiting.PAUSED: ("{where} is paused", "`redisjobs resume{on}` ends the pause"),
    WhyWaiting.NAME_PAUSED: (
        "jobs of its name are paused on {where}",
        "`redisjobs resume --name {name}{on}` ends the pause",
    ),
    WhyWaiting.LIMIT: (
        "it waits in the line of its limit on {where}",
        "it starts when a job of its line ends; `redisjobs limits set {name}{on}` allows more",
    ),
    WhyWaiting.NO_WORKER: ("no worker of {where} is alive", "start one, as `redisjobs worker MODULE:QUEUE`"),
    WhyWaiting.NO_HANDLER: (
        "the workers of {where} have no handler for its name",
        "start a worker that imports the handler, or correct the name",
    ),
    WhyWaiting.LAST_DELIVERY: (
        "its workers died, so it waits for a worker of {where} that runs no other job",
        "a worker makes room within about a lease; look why its workers died: `redisjobs job {job}{on}`",
    ),
}
"""For what keeps a job from starting: a clause, and what to do about it."""


def words_of(queue: str, job_id: str, name: str, where: str = "") -> dict[str, str]:
    """Return the words for texts of `OBSTACLES`: the queue, the job, its name, the option for the queue."""
    on = "" if queue == "default" else f" --queue {shlex.quote(visible(queue))}"
    where = where or f"queue '{visible(queue)}'"
    return {"where": where, "job": shlex.quote(visible(job_id)), "name": shlex.quote(visible(name)), "on": on}
