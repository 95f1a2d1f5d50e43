"""A web application that pushes jobs.

`uvicorn web_app:alone` also runs the jobs, in the same process; without REDISJOBS_URL it needs no Redis.
`uvicorn web_app:web` only pushes jobs, and `python web_worker.py` runs them, on any host. Set REDISJOBS_URL to the
same server for both.
"""

from fastapi import FastAPI
from signups import SendEmail, queue

from redisjobs.worker.service import Lifespan


def make(lifespan: Lifespan) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.post("/signup", status_code=202)
    async def signup(email: str) -> dict[str, str]:
        job = await queue.push(SendEmail(to=email, subject="Welcome"))
        return {"job": job.id}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"jobs": lifespan.service.health.why if lifespan.service else "not started"}

    return app


alone = make(queue.lifespan())
web = make(queue.lifespan(worker=False))
