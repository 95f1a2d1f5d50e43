"""A shop whose queue a real page shows and real workers run, for the tests with a browser."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fleet import Fleet
from store import RedisStore

from redisjobs import JobName, Schedule, State
from redisjobs.sync import JobQueue
from redisjobs.web import Verb

JOBS = """
import asyncio, os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from redisjobs import JobContext, JobQueue, Keep, Retention, no_retry

from shop.invoices import total
from shop.smtp import deliver

retention = Retention(completed=Keep(count=1000), cancelled=Keep(count=1000))
queue = JobQueue(os.environ["REDISJOBS_URL"], os.environ["QUEUE"], retention=retention)


@dataclass
class SendEmail:
    job_name: ClassVar[str] = "SendEmail"
    to: str
    order: int = 0


@queue.register(SendEmail, retry=no_retry(), keep_result=3600)
async def send_email(mail: SendEmail) -> dict[str, int]:
    deliver(mail.to)
    return {"order": mail.order}


@dataclass
class RenderInvoice:
    job_name: ClassVar[str] = "RenderInvoice"
    customer: str
    lines: list[int]
    currency: str = ""


@queue.register(RenderInvoice, retry=no_retry())
async def render_invoice(invoice: RenderInvoice) -> None:
    total(invoice.lines, invoice.currency)


@dataclass
class ImportCatalogue:
    job_name: ClassVar[str] = "ImportCatalogue"
    path: str


@queue.register(ImportCatalogue, timeout=None)
async def import_catalogue(given: ImportCatalogue, context: JobContext) -> None:
    context.progress(3, 10, f"page 3 of 10 of {given.path}")
    while not Path("imported").exists():
        await asyncio.sleep(0.05)
"""

SMTP = """
class SMTPServerDisconnected(Exception):
    pass


def deliver(address):
    if "@" not in address:
        kind = type(address, (Exception,), {}) if "<" in address else SMTPServerDisconnected
        raise kind(f"no such address: {address}")
"""

INVOICES = """
RATES = {"EUR": 1, "USD": 0.9}


def total(lines, currency):
    return sum(lines) * RATES[currency]
"""

WORKER = """
import asyncio, sys
from shop.jobs import queue
from redisjobs import Worker
asyncio.run(Worker(queue, worker_id=sys.argv[1], concurrency=8).run(handle_signals=True))
"""


class Shop:
    """A queue of its own, its page, and its workers, each a process.

    Attributes:
        queue: The queue, for a test to push, and to see what came of an act.
        base: The address of the queue's pages.
        store: The queue's keys.
        worker: The process of the worker that was started last.
    """

    def __init__(self, fleet: Fleet, store: RedisStore) -> None:
        self.store, self._fleet = store, fleet
        folder = fleet.folder / "shop"
        folder.mkdir()
        for name, code in {"jobs": JOBS, "smtp": SMTP, "invoices": INVOICES, "__init__": ""}.items():
            (folder / f"{name}.py").write_text(code)
        self.queue = JobQueue(fleet.queue.driver, fleet.queue.name)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.worker: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.base = f"http://127.0.0.1:{self._port}/{self.queue.name}/"
        self.open()

    def open(self) -> None:
        """Start the page, and wait until it answers."""
        allowed = [word for verb in Verb for word in ("--allow", verb)]
        address = f"127.0.0.1:{self._port}"
        command = [sys.executable, "-m", "redisjobs", "web", "shop.jobs:queue", "--listen", address, *allowed]
        self._server = self._fleet.start(command)
        until(self._answers)

    def close(self) -> None:
        """Stop the page."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def work(self, worker_id: str = "mail-1") -> None:
        """Start a worker that goes on."""
        self.worker = self._fleet.python(WORKER, worker_id)

    def push(self, *addresses: str, **options: Any) -> list[str]:
        """Push a mail to each address; return the ids. A mail to no address fails."""
        mails = [{"to": to, "order": 2**70 + at} for at, to in enumerate(addresses)]
        return self.push_as("SendEmail", *mails, **options)

    def push_as(self, name: str, *parameters: dict[str, Any], **options: Any) -> list[str]:
        """Push jobs of a name; return their ids."""
        known = JobName(name, dict[str, Any])
        return [self.queue.push(each, known, **options).id for each in parameters]

    def die(self, *addresses: str) -> list[str]:
        """Let mails to wrong addresses die, by a worker that is gone afterwards; return their ids."""
        ids = self.push(*addresses)
        worker = self._fleet.command("--until-idle", targets=("shop.jobs:queue",))
        assert worker.wait(timeout=30) == 0
        return ids

    def schedule(self, name: str, rule: Schedule) -> None:
        """Add a schedule that pushes a mail."""
        mail = {"to": "ann@example.com", "order": 1}
        self.queue.schedules.put(name, mail, rule, job=JobName("SendEmail", dict[str, Any]))

    def begin_import(self) -> str:
        """Let a worker begin a job that goes on; return its id."""
        (job_id,) = self.push_as("ImportCatalogue", {"path": "catalogue.csv"})
        self.work()
        until(lambda: self.queue.control.counts().running)
        return job_id

    @contextmanager
    def no_writes(self) -> Iterator[None]:
        """Let all calls of Redis wait that could write."""
        self.store.admin.client_pause(30_000, all=False)
        yield
        self.store.admin.client_unpause()

    def away(self, seconds: float) -> None:
        """Let Redis answer nothing for a time."""
        self.store.admin.client_pause(int(seconds * 1000))

    def state(self, job_id: str) -> State | None:
        """Return where a job is; None if it is not on the queue."""
        found = self.queue.get(job_id)
        return found.state if found else None

    def _answers(self) -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", self._port)) == 0


def until(condition: Callable[[], object], within: float = 20) -> None:
    """Wait until a condition holds that other processes bring about."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)
