# shop/emails.py: handlers
from shop.queue import queue


@queue.job
async def welcome(address: str) -> None:
    print(f"to {address}: welcome")
