"""The queue and its jobs, which the web application and the worker share."""

import os

from flask import current_app

from redisjobs.sync import JobQueue

queue = JobQueue(os.environ.get("REDISJOBS_URL", "redis://127.0.0.1:6379/0"), name="emails")


@queue.job
def send_email(to: str, subject: str) -> None:
    print(f"from {current_app.config['SENDER']} to {to}: {subject}", flush=True)
