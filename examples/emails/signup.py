# signup.py: a producer without an event loop
from jobs import SendEmail

from redisjobs.sync import JobQueue

with JobQueue("redis://127.0.0.1:6379/0", name="emails") as queue:
    job = queue.push(SendEmail(to="joe@email.com", subject="Welcome"))
    print("pushed", job.id)
