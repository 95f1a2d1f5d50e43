# new_customer.py: a program that pushes
import asyncio

from shop.emails import welcome
from shop.images import resize
from shop.queue import queue


async def main() -> None:
    async with queue:
        await welcome.push("joe@email.com")
        await resize.push("joe.png", width=64)


asyncio.run(main())
