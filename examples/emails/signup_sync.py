# signup_sync.py: the same from code without an event loop
from jobs import SendEmail

from redisjobs.sync import JobQueue

with JobQueue("redis://127.0.0.1:6379/0", name="emails") as queue:
    print(queue.push(SendEmail(to="ann@email.com", subject="Welcome")).id)
