# emails.py: the handler, which only workers import
from jobs import SendEmail

from redisjobs import Fail, JobContext, JobQueue, exponential_jitter

queue = JobQueue("redis://127.0.0.1:6379/0", name="emails")


@queue.register(SendEmail, retry=exponential_jitter(max_attempts=4), timeout=30)
async def send_email(parameters: SendEmail, context: JobContext) -> None:
    if "@" not in parameters.to:
        raise Fail(f"{parameters.to!r} is not an address")
    print(f"to {parameters.to}: {parameters.subject} (attempt {context.attempt})")
