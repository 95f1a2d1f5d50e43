"""The web application. It pushes jobs; `redisjobs worker app.jobs:queue` runs them."""

from fastapi import FastAPI

from app.jobs import queue, send_email

app = FastAPI(lifespan=queue.lifespan(worker=False))


@app.post("/signup", status_code=202)
async def signup(email: str) -> dict[str, str]:
    job = await send_email.push(email, "Welcome")
    return {"job": job.id}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
