"""The tasks, which the web application and the worker share."""

from django.tasks import task


@task(queue_name="emails")
def send_email(to: str, subject: str) -> str:
    print(f"to {to}: {subject}", flush=True)
    return f"sent to {to}"
