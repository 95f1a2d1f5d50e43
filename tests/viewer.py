"""A viewer of the page: opens views, sends forms as a browser does, and reads what is shown."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlencode

import httpx

from redisjobs import JobContext, JobQueue, Worker, no_retry

SAME_SITE = {"sec-fetch-site": "same-origin"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


class NowhereError(Exception):
    """What the handler raises for a mail to nowhere."""


@dataclass
class Mail:
    job_name: ClassVar[str] = "Mail"
    to: str
    number: int = 0

    @staticmethod
    def registered_on(queue: JobQueue) -> None:
        @queue.register(Mail, retry=no_retry(), keep_result=3600)
        async def send(mail: Mail, context: JobContext) -> dict[str, Any]:
            if mail.to == "nowhere":
                raise NowhereError(f"no such place: {mail.to}")
            return {"sent": mail.number}


async def run_all(queue: JobQueue) -> None:
    """Run all jobs that are ready."""
    await Worker(queue, concurrency=10, schedules=False).run(until_idle=True)


async def dead(queue: JobQueue, count: int = 1) -> list[str]:
    """Make dead letters; return their ids."""
    handles = await queue.push_many([Mail("nowhere", number) for number in range(count)])
    await run_all(queue)
    return [handle.id for handle in handles]


class Viewer:
    """A viewer of a page at http://localhost, from this machine unless `address` says otherwise."""

    def __init__(
        self, app: Any, queue_name: str, root: str = "", *, address: str = "127.0.0.1", host: str = "localhost"
    ) -> None:
        self.base = f"{root}/{queue_name}"
        transport = httpx.ASGITransport(app, client=(address, 4711), root_path=root)
        self.client = httpx.AsyncClient(transport=transport, base_url=f"http://{host}", follow_redirects=False)

    async def get(self, view: str = "", headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Open a view of the queue."""
        return await self.client.get(f"{self.base}/{view}", headers=headers)

    async def see(self, view: str = "") -> str:
        """Return the text of a view that has to be there, without its markup."""
        response = await self.get(view)
        assert response.status_code == 200, response.text
        return words(response.text)

    async def post(
        self,
        action: str,
        fields: Sequence[tuple[str, str]] | Mapping[str, str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a form."""
        body = urlencode(list(fields.items()) if isinstance(fields, Mapping) else fields, errors="surrogateescape")
        sent = FORM | dict(SAME_SITE if headers is None else headers)
        return await self.client.post(f"{self.base}/act/{action}", content=body, headers=sent)

    async def act(self, action: str, **fields: str) -> str:
        """Send a form that has to succeed, and return the text of the page that follows."""
        response = await self.post(action, fields)
        assert response.status_code == 303, response.text
        return words((await self.client.get(response.headers["location"])).text)


def words(page: str) -> str:
    """Return the text of HTML without its markup, head and scripts."""
    body = re.sub(r"(?s)<head>.*?</head>|<svg.*?</svg>", " ", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())
