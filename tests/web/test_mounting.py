"""The page inside other applications, and the files that it loads."""

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastapi
import httpx
import pytest
from a2wsgi import ASGIMiddleware
from starlette.applications import Starlette
from starlette.routing import Mount
from store import RedisStore
from viewer import FORM, SAME_SITE, Mail, Viewer, dead, words

from redisjobs import JobQueue, sync
from redisjobs.web import Dashboard
from redisjobs.web.rendering import static_file

pytestmark = pytest.mark.anyio

HTMX = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
"""The hash of dist/htmx.min.js in the npm package htmx.org 2.0.11."""


def fastapi_app(dashboard: Dashboard) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.mount("/admin/jobs", dashboard)
    return app


def starlette_app(dashboard: Dashboard) -> Starlette:
    return Starlette(routes=[Mount("/admin", routes=[Mount("/jobs", dashboard)])])


@pytest.mark.parametrize("mounted", [fastapi_app, starlette_app])
async def test_it_works_under_any_path_without_a_lifespan(
    mails: JobQueue, mounted: Callable[[Dashboard], Any]
) -> None:
    (job_id,) = await dead(mails)
    viewer = Viewer(mounted(Dashboard(mails)), f"admin/jobs/{mails.name}")

    page = (await viewer.get("jobs?state=dead")).text

    for address in re.findall(r'(?:href|src|action|formaction|hx-get)="([^"#]+)"', page):
        assert address.startswith("/admin/jobs/"), address
        if "/act/" not in address:
            assert (await viewer.client.get(address.replace("&amp;", "&"))).status_code in (200, 307), address
    await viewer.act("retry", id=job_id, back="jobs?state=dead")
    assert (await mails.control.counts()).dead == 0


async def test_it_works_behind_a_root_path(mails: JobQueue) -> None:
    viewer = Viewer(Dashboard(mails), mails.name, root="/be hind")
    viewer.base = f"/{mails.name}"  # a proxy took the prefix off

    page = (await viewer.get()).text

    assert f'href="/be%20hind/{mails.name}/jobs"' in page


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread, as an ASGI application inside a WSGI server has it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_it_works_in_a_wsgi_application_with_a_sync_queue(
    redis_store: RedisStore, loop: asyncio.AbstractEventLoop
) -> None:
    with sync.JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        handle = queue.push(Mail("joe"))
        dashboard: Any = Dashboard(queue, access=lambda _: "all")
        app: Any = ASGIMiddleware(dashboard, loop=loop)
        transport = httpx.WSGITransport(app, script_name="/jobs")
        with httpx.Client(transport=transport, base_url="http://localhost") as client:
            page = client.get(f"/{queue.name}/jobs").text
            done = client.post(f"/{queue.name}/act/hold", data={"id": handle.id}, headers=SAME_SITE | FORM)
        found = queue.get(handle)
        asyncio.run_coroutine_threadsafe(redis_store.driver.aclose(), loop).result()

    assert "1 ready" in words(page)
    assert f'href="/jobs/{queue.name}/failures"' in page
    assert found is not None
    assert (done.status_code, found.held) == (303, True)


async def test_the_address_without_a_queue_leads_to_the_only_one(mails: JobQueue) -> None:
    viewer = Viewer(Dashboard(mails), mails.name)

    assert (await viewer.client.get("/")).headers["location"] == f"/{mails.name}/"
    assert (await viewer.client.get(f"/{mails.name}")).headers["location"] == f"/{mails.name}/"
    assert (await viewer.client.get("/other/")).status_code == 404


async def test_a_lifespan_and_a_websocket_are_answered(mails: JobQueue) -> None:
    sent = list[dict[str, object]]()
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> dict[str, object]:
        return dict(next(events))

    async def send(message: object) -> None:
        sent.append(dict(message))  # type: ignore[call-overload]

    dashboard = Dashboard(mails)
    await dashboard({"type": "lifespan"}, receive, send)
    await dashboard({"type": "websocket"}, receive, send)

    assert [each["type"] for each in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
        "websocket.close",
    ]


@pytest.mark.parametrize("queues", [[], "emails", ["emails"], None])
def test_it_takes_queues_and_nothing_else(queues: object) -> None:
    with pytest.raises(TypeError):
        Dashboard(queues)  # type: ignore[arg-type]


async def test_the_files_that_it_loads_are_its_own(viewer: Viewer) -> None:
    page = (await viewer.get()).text

    loaded = re.findall(r'(?:src|href)="(/-/[^"]+)"', page)
    assert len(loaded) == 4
    for address in loaded:
        answer = await viewer.client.get(address)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
    for name in ("../dashboard.py", "%2e%2e/dashboard.py", "", "unknown.js", "..\\x"):
        assert (await viewer.client.get(f"/-/{name}")).status_code in (307, 404)


def test_the_script_of_others_is_the_published_one_with_its_licence(project: Path) -> None:
    script, licence = static_file("htmx.min.js"), static_file("htmx.LICENSE.txt")

    assert script is not None
    assert licence is not None
    assert hashlib.sha256(script[0]).hexdigest() == HTMX
    assert b"Zero-Clause BSD" in licence[0]


def test_the_pages_own_script_runs_no_text_as_code(project: Path) -> None:
    text = (project / "redisjobs/web/static/page.js").read_text("utf-8")

    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text) == []
