# thumbnails.py: a handler that runs in a separate process
from redisjobs import JobQueue

queue = JobQueue("redis://127.0.0.1:6379/0", name="thumbnails")


@queue.job(run_in="process", timeout=30)
def thumbnail(path: str, width: int = 64) -> None:
    print(f"{path} at {width}")  # prints: a.png at 64
