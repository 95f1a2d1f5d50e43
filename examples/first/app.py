# app.py
import asyncio

from redisjobs import JobQueue

queue = JobQueue("redis://127.0.0.1:6379/0")


@queue.job
async def add(a: int, b: int) -> None:
    print(f"{a} + {b} = {a + b}")  # prints: 2 + 3 = 5


async def main() -> None:
    async with queue:
        job = await add.push(2, 3)
        print("pushed", job.id)


if __name__ == "__main__":
    asyncio.run(main())
