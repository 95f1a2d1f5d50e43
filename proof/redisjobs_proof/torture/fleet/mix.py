"""Draws the jobs that producers push: a mix of all kinds."""

import random
from typing import Any

from redisjobs import queue, sync
from redisjobs.model.codec import new_job_id
from redisjobs.model.job import Priority
from redisjobs.model.options import PushOptions
from redisjobs.model.transitions import NewJob
from redisjobs_proof.torture.fleet import flows, jobs

_UNIQUE_KEYS = 5
_LIMIT_KEYS = 2
_CHILDREN = ("work", "fail", "sleep", "family")


def a_job(queue: sync.JobQueue | queue.JobQueue, rng: random.Random) -> NewJob:
    """Return a random job: mostly short work, and some of all other kinds."""
    options: PushOptions = {"job_id": f"own-{new_job_id()}"} if rng.random() < 0.3 else {"job_id": new_job_id()}
    options["priority"] = rng.choices(list(Priority), (1, 8, 1))[0]
    if rng.random() < 0.1:
        options["delay"] = rng.uniform(0.05, 3)
    if rng.random() < 0.02:
        options["unique"] = f"key {rng.randrange(_UNIQUE_KEYS)}"
    if rng.random() < 0.2:
        options["keep_result"] = jobs.KEPT
    chance = rng.random()
    if chance < 0.58:
        kind: Any = jobs.Work(some_seconds(rng))
    elif chance < 0.63:
        kind = a_flow(rng)
    elif chance < 0.7:
        kind = jobs.Limited(rng.randrange(_LIMIT_KEYS), rng.uniform(0.001, 0.3))
    elif chance < 0.72:
        kind = jobs.Paced()
    elif chance < 0.86:
        kind = jobs.ThreadWork(some_seconds(rng))
    elif chance < 0.89:
        kind = jobs.Pusher()
    elif chance < 0.926:
        kind = jobs.Parent(some_seconds(rng), rng.choice((1, 1, 2)))
    elif chance < 0.93:
        kind = a_chain(rng, options)
    elif chance < 0.98:
        kind = jobs.Flaky(rng.randint(2, jobs.ATTEMPTS))
    elif chance < 0.99:
        kind = jobs.Flaky(jobs.ATTEMPTS + 1)
    else:
        kind = jobs.Hopeless()
    return queue.prepare(kind, **options)


def a_chain(rng: random.Random, options: PushOptions) -> jobs.Step:
    """Return the first step of a chain. Half of the chains have a key, which each step passes to the next."""
    key = options["unique"] = f"chain {rng.getrandbits(64)}" if rng.random() < 0.5 else None
    return jobs.Step(rng.randint(3, 20), key or "")


def a_flow(rng: random.Random) -> Any:
    """Return a job that saves steps, sleeps, or has children."""
    chance = rng.random()
    if chance < 0.4:
        kind = flows.Saving if chance < 0.3 else flows.ThreadSaving
        return kind(rng.randint(1, 8), rng.choice((1, 1, 2)), rng.choice((0.02, 0.02, 0.2)))
    if chance < 0.7:
        return flows.Sleeper([rng.uniform(0.05, 1.5) for _ in range(rng.randint(1, 3))])
    if chance < 0.8:
        return flows.Sleeper([rng.uniform(0, 0.05) for _ in range(15)])
    groups = [rng.choices(_CHILDREN, (5, 1, 2, 1), k=rng.randint(1, 6)) for _ in range(rng.choice((1, 1, 2)))]
    return flows.Family(groups, named=rng.random() < 0.5)


def some_seconds(rng: random.Random) -> float:
    """Return a random time: mostly a few ms, sometimes longer than a lease."""
    chance = rng.random()
    if chance < 0.8:
        return rng.uniform(0.001, 0.02)
    return rng.uniform(0.05, 0.2) if chance < 0.97 else rng.uniform(1, 3)
