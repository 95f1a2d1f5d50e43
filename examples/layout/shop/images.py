# shop/images.py: more handlers
from shop.queue import queue


@queue.job
async def resize(path: str, width: int = 800) -> None:
    print(f"{path} at {width}")
