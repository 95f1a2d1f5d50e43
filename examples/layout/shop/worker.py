# shop/worker.py: the queue and all modules with handlers
from shop import emails, images
from shop.queue import queue

__all__ = ["emails", "images", "queue"]
