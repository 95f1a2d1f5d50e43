# signup.py: the producer's side, which needs no handler
import asyncio

from jobs import SendEmail

from redisjobs import JobQueue


async def main() -> None:
    async with JobQueue("redis://127.0.0.1:6379/0", name="emails") as queue:
        job = await queue.push(SendEmail(to="joe@email.com", subject="Welcome"))
        print(job.id)


asyncio.run(main())
