# shop/queue.py: the queue, which imports no handlers
from redisjobs import JobQueue

queue = JobQueue("redis://127.0.0.1:6379/0", name="shop")
