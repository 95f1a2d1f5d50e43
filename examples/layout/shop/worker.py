# shop/worker.py: all that a worker needs
from shop import emails, images
from shop.queue import queue

__all__ = ["emails", "images", "queue"]
