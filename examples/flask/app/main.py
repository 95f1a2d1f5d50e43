"""The web application. It pushes jobs; `redisjobs worker app.main:queue` runs them."""

from typing import Any

from flask import Flask, request

from app.jobs import queue, send_email
from redisjobs import JobContext, Middleware
from redisjobs.events.middleware import CallNextSync, RunningJob

app = Flask(__name__)
app.config["SENDER"] = "shop@email.com"


class AppContext(Middleware):
    """Runs each sync handler in the application context, so that `current_app` and extensions work in it."""

    def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any:
        with app.app_context():
            return call_next()


queue.add_middleware(AppContext())


@app.post("/signup")
def signup() -> tuple[dict[str, str], int]:
    job = send_email.push(request.args["email"], "Welcome")
    return {"job": job.id}, 202


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
