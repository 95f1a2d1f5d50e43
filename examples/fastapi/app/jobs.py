"""The queue and its jobs, which the web application and the worker share."""

import os

from redisjobs import JobQueue

queue = JobQueue(os.environ.get("REDISJOBS_URL", "redis://127.0.0.1:6379/0"), name="emails")


@queue.job
async def send_email(to: str, subject: str) -> None:
    print(f"to {to}: {subject}", flush=True)
