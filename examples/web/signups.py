"""The queue with its jobs and handlers, which the web application and the worker share."""

import os
from dataclasses import dataclass
from typing import ClassVar

from redisjobs import JobQueue

queue = JobQueue(os.environ.get("REDISJOBS_URL", "memory://"), name=os.environ.get("QUEUE", "emails"))


@dataclass
class SendEmail:
    job_name: ClassVar[str] = "SendEmail"
    to: str
    subject: str


@queue.register(SendEmail)
async def send_email(parameters: SendEmail) -> None:
    print(f"to {parameters.to}: {parameters.subject}", flush=True)
