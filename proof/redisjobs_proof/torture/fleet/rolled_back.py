"""A process of the torture that runs no jobs: a scheduler of a release that is rolled back."""

import os

import anyio

from redisjobs_proof.torture.fleet.jobs import queue

if __name__ == "__main__":
    queue._connect(os.environ["REDISJOBS_URL"])
    anyio.run(queue.service(worker=False, schedules=True).run)
