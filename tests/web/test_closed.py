"""Who may see the page and act on it; what a form from elsewhere, a link or a job's text can do: nothing.

The names of past faults of other pages are in the tests that repeat them.
"""

import base64
import re
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from store import RedisStore, documented_user
from viewer import FORM, Mail, Viewer, dead, run_all, words

from redisjobs import Fail, JobContext, JobName, JobQueue, no_retry
from redisjobs.web import ALL, READ_ONLY, Dashboard, Verb
from redisjobs.web.actions import ACTIONS
from redisjobs.web.board.access import basic_auth, verbs_of
from redisjobs.web.dashboard import VIEWS

pytestmark = pytest.mark.anyio

EVIL = """<script>alert(1)</script><img src=x onerror=alert(2)>'"&{{7*7}}</textarea></pre>"""


# Who may see it


@pytest.mark.parametrize(
    ("address", "host", "headers", "status"),
    [
        ("127.0.0.1", "localhost:8000", {}, 200),
        ("::1", "[::1]:8000", {}, 200),
        ("::ffff:127.0.0.1", "127.0.0.1", {}, 200),
        ("10.0.0.7", "localhost", {}, 403),
        ("127.0.0.1", "evil.example", {}, 403),  # a name on the internet that points to 127.0.0.1
        ("127.0.0.1", "127.0.0.1.evil.example", {}, 403),
        ("127.0.0.1", "localhost", {"x-forwarded-for": "10.0.0.7"}, 403),  # a proxy on this machine
        ("127.0.0.1", "localhost", {"forwarded": "for=10.0.0.7"}, 403),
        ("127.0.0.1", "localhost", {"x-forwarded-proto": "https"}, 403),
        ("testclient", "localhost", {}, 403),
    ],
)
async def test_without_access_only_this_machine_is_answered(
    mails: JobQueue, address: str, host: str, headers: dict[str, str], status: int
) -> None:
    viewer = Viewer(Dashboard(mails), mails.name, address=address, host=host)

    answer = await viewer.get("", headers)

    assert answer.status_code == status
    if status == 403:
        assert answer.text == "Forbidden\n"


async def test_a_proxy_on_this_machine_that_adds_no_header_but_speaks_an_old_http_is_refused(
    mails: JobQueue,
) -> None:
    dashboard = Dashboard(mails)

    async def behind_nginx(scope: Any, receive: Any, send: Any) -> None:  # with a bare `proxy_pass`
        await dashboard({**scope, "http_version": "1.0"}, receive, send)

    assert (await Viewer(behind_nginx, mails.name).get()).status_code == 403


@pytest.mark.parametrize("answer", [None, False])
async def test_a_viewer_without_access_sees_no_view_no_file_and_does_nothing(mails: JobQueue, answer: Any) -> None:
    (job_id,) = await dead(mails)
    viewer = Viewer(Dashboard(mails, access=lambda _: answer), mails.name)

    for view in (*VIEWS, "../-/page.css"):
        assert (await viewer.get(view)).status_code == 403
    for action in ACTIONS:
        assert (await viewer.post(action, {"id": job_id, "sure": "1"})).status_code == 403
    assert (await mails.control.counts()).dead == 1


async def test_access_may_be_async_answer_by_verbs_and_send_the_viewer_to_a_login(mails: JobQueue) -> None:
    async def access(request: Request) -> Any:
        return {"retry"} if "user" in request.cookies else RedirectResponse("/login")

    viewer = Viewer(Dashboard(mails, access=access), mails.name)
    assert (await viewer.get()).headers["location"] == "/login"
    (job_id,) = await dead(mails)
    viewer.client.cookies.set("user", "ann")

    shown = words((await viewer.get(f"job?id={job_id}")).text)

    assert ("Retry" in shown, "Delete" in shown, "Pause the queue" in await viewer.see()) == (True, False, False)
    assert (await viewer.post("delete", {"id": job_id, "sure": "1"})).status_code == 403
    assert (await viewer.post("retry", {"id": job_id})).status_code == 303


@pytest.mark.parametrize(
    ("answer", "verbs"),
    [("all", ALL), (True, ALL), ("read_only", READ_ONLY), ({"push", Verb.RETRY}, {Verb.PUSH, Verb.RETRY})],
)
def test_access_is_given_by_a_word_or_by_verbs_and_push_only_by_its_name(answer: Any, verbs: set[Verb]) -> None:
    assert verbs_of(answer) == verbs
    assert Verb.PUSH not in ALL


@pytest.mark.parametrize("answer", ["al", {"retry", "everything"}, 1, object()])
async def test_a_wrong_answer_of_access_shows_nothing(mails: JobQueue, answer: Any) -> None:
    viewer = Viewer(Dashboard(mails, access=lambda _: answer), mails.name)

    refused = await viewer.get()

    assert (refused.status_code, mails.name in refused.text) == (500, False)


def asked_with(credentials: str) -> Request:
    token = base64.b64encode(credentials.encode()).decode()
    return Request({"type": "http", "headers": [(b"authorization", f"Basic {token}".encode())]})


@pytest.mark.parametrize("given", ["ann:wrong", "ann:", "ann", "", "ann:secret2", ":secret", "bob:secret"])
def test_the_login_takes_no_other_user_or_password(given: str) -> None:
    access = basic_auth("ann:secret", ALL)

    assert access(asked_with("ann:secret")) == ALL
    refused = access(asked_with(given))
    assert isinstance(refused, Response)
    assert refused.status_code == 401
    assert "redisjobs" not in f"{refused.headers} {refused.body!r}".lower()


@pytest.mark.parametrize("credentials", ["", ":", "ann:", ":secret", "ann"])
def test_a_login_without_a_user_or_a_password_is_refused_at_the_start(credentials: str) -> None:
    with pytest.raises(ValueError, match="USER:PASSWORD"):
        basic_auth(credentials, ALL)


async def test_a_read_only_page_shows_no_form_that_changes_anything(mails: JobQueue) -> None:
    (job_id,) = await dead(mails)
    viewer = Viewer(Dashboard(mails, access=lambda _: "read_only"), mails.name)

    pages = "".join([(await viewer.get(f"{view}?id={job_id}&state=dead")).text for view in VIEWS])

    assert re.findall(r'method="post" action="[^"]+/act/(\S+)"', pages) == ["check"]  # which only looks
    for action in ACTIONS.keys() - {"check", "stop-check"}:
        assert (await viewer.post(action, {"id": job_id, "sure": "1"})).status_code in (403, 404)


@pytest.mark.parametrize("role", ["observer", "operator"])
async def test_no_action_is_shown_that_the_servers_acl_would_refuse(redis_store: RedisStore, role: str) -> None:
    with documented_user(redis_store, role) as url:
        async with JobQueue(url, redis_store.queue_name) as queue:
            viewer = Viewer(Dashboard(queue, access=lambda _: "all"), queue.name)
            async with JobQueue(redis_store.driver, redis_store.queue_name) as other:
                Mail.registered_on(other)
                (job_id,) = await dead(other)

            page = (await viewer.get(f"job?id={job_id}")).text

            assert ('method="post"' in page) == (role == "operator")
            assert ("lets this user change nothing" in page) == (role == "observer")


async def test_an_action_that_the_acl_refuses_says_so_and_is_not_offered_again(redis_store: RedisStore) -> None:
    async with JobQueue(redis_store.driver, redis_store.queue_name) as other:
        Mail.registered_on(other)
        (job_id,) = await dead(other)
    with documented_user(redis_store, "operator", "-xdel") as url:
        async with JobQueue(url, redis_store.queue_name) as queue:
            viewer = Viewer(Dashboard(queue, access=lambda _: "all"), queue.name)

            refused = await viewer.post("delete", {"id": job_id, "sure": "1"})
            shown = await viewer.see(f"job?id={job_id}")

    assert refused.status_code == 403
    assert "Refused The server's ACL does not allow this user to do it." in words(refused.text)
    assert ("Retry" in shown, "Delete" in shown) == (True, False)


# Forms from elsewhere


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://localhost"}, True),  # over plain HTTP, browsers send no Sec-Fetch-Site
        ({"origin": "https://localhost"}, True),  # a proxy took the TLS off
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://localhost.evil.example"}, False),
        ({"origin": "http://evil.example/localhost"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[::1"}, False),
        ({}, False),
        ({"origin": "http://jobs.example", "x-forwarded-host": "jobs.example"}, False),
    ],
)
async def test_a_form_from_another_site_changes_nothing_as_flower_cve_2022_30034(
    mails: JobQueue, viewer: Viewer, headers: dict[str, str], taken: bool
) -> None:
    answer = await viewer.post("pause", {}, headers)

    assert (answer.status_code == 303) == taken == await mails.control.is_paused()


async def test_the_host_that_a_proxy_forwards_counts_if_the_proxy_is_trusted(mails: JobQueue) -> None:
    viewer = Viewer(Dashboard(mails, access=lambda _: "all", trust_proxy=True), mails.name)
    forwarded = {"x-forwarded-host": "jobs.example"}

    assert (await viewer.post("pause", {}, {"origin": "http://evil.example", **forwarded})).status_code == 403
    assert (await viewer.post("pause", {}, {"origin": "https://jobs.example", **forwarded})).status_code == 303


async def test_a_get_changes_nothing_as_rq_dashboards_did(mails: JobQueue, viewer: Viewer) -> None:
    (job_id,) = await dead(mails)
    before = await mails.control.counts()

    for action in ACTIONS:
        asked = urlencode({"id": job_id, "sure": "1", "name": "Mail", "kind": "delete", "state": "dead"})
        assert (await viewer.get(f"act/{action}?{asked}")).status_code == 404
    for view in VIEWS:
        await viewer.get(f"{view}?id={job_id}&sure=1")

    assert (await mails.control.counts(), await mails.control.is_paused()) == (before, False)


async def test_head_and_options_are_answered_and_other_methods_are_not(viewer: Viewer) -> None:
    assert (await viewer.client.head(f"{viewer.base}/jobs")).status_code == 200
    options = await viewer.client.options(f"{viewer.base}/jobs")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert not [name for name in options.headers if name.startswith("access-control")]
    assert (await viewer.client.delete(f"{viewer.base}/jobs")).status_code == 405


async def test_a_form_that_is_none_or_too_large_is_refused(mails: JobQueue, viewer: Viewer) -> None:
    address = f"{viewer.base}/act/pause"
    same = {"sec-fetch-site": "same-origin"}

    assert (await viewer.client.post(address, json={}, headers=same)).status_code == 415
    assert (
        await viewer.client.post(address, content=b"a=" + b"x" * 4_000_001, headers=same | FORM)
    ).status_code == 413
    assert (await viewer.client.post(address, content="a=1&" * 3000, headers=same | FORM)).status_code == 400
    assert not await mails.control.is_paused()


async def test_a_page_may_load_and_send_only_what_is_its_own(viewer: Viewer) -> None:
    for view in (*VIEWS, "../-/page.js", "unknown"):
        headers = (await viewer.get(view)).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy.pop("default-src") == policy.pop("frame-ancestors") == policy.pop("base-uri") == "'none'"
        assert set(policy.values()) == {"'self'"}
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "server" not in headers


async def test_no_page_has_a_script_a_style_or_a_handler_inside(mails: JobQueue, viewer: Viewer) -> None:
    (job_id,) = await dead(mails)

    for view in VIEWS:
        page = (await viewer.get(f"{view}?id={job_id}&state=dead")).text
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:|<script(?! src=)", page) == []


# What links and jobs say


@pytest.mark.parametrize("view", sorted(VIEWS))
async def test_no_parameter_of_a_link_comes_back_as_markup_as_sidekiq_cve_2023_1892_and_unique_jobs_cve_2024_25122(
    mails: JobQueue, viewer: Viewer, view: str
) -> None:
    await dead(mails)
    names = (
        "state",
        "text",
        "name",
        "age",
        "fingerprint",
        "reason",
        "after",
        "id",
        "did",
        "n",
        "period",
        "count",
        "back",
    )

    for name in names:
        answer = await viewer.get(f"{view}?{urlencode({'state': 'dead', name: EVIL})}")

        assert answer.status_code in (200, 404)
        unharmed(answer.text)


async def test_no_parameter_of_a_link_makes_the_server_work_without_end_as_sidekiq_cve_2023_26141(
    mails: JobQueue, viewer: Viewer
) -> None:
    await mails.push_many([Mail("joe", number) for number in range(40)])
    huge = {"count": "9" * 400, "limit": "1000000", "page": "99999999", "period": "9" * 50, "n": "9" * 50}

    page = (
        await viewer.get(f"jobs?{urlencode({'state': 'ready', **huge, 'age': '1e308', 'after': 'x' * 5000})}")
    ).text

    assert len(re.findall('name="id"', page)) == 25
    assert re.findall(r'hx-trigger="([^"]+)"', page) == ["every 2s"]


@pytest.mark.parametrize("state", ["ready", "running", "delayed", "dead", "completed", "cancelled"])
async def test_a_list_that_begins_at_a_made_up_place_is_no_fault_of_the_page(viewer: Viewer, state: str) -> None:
    async with JobQueue("memory://", name="quick") as queue:
        for one in (viewer, Viewer(Dashboard(queue), queue.name)):
            answer = await one.get(f"jobs?state={state}&after=evil")

            assert answer.status_code in (200, 404)  # Redis begins at the end if it can't read a place


async def test_a_link_can_say_nothing_of_its_own(viewer: Viewer) -> None:
    page = await viewer.see(f"?did={quote('Your session has ended')}&n=3")

    assert "Your session" not in page
    assert "Retried 1 job." in await viewer.see("?did=retried&n=evil")


async def test_an_action_leads_to_no_other_site(viewer: Viewer) -> None:
    for back in ("//evil.example", "https://evil.example/", "jobs?next=//evil.example", "../../x", "\\evil"):
        location = (await viewer.post("resume", {"back": back})).headers["location"]
        assert location.startswith(f"{viewer.base}/")
        assert "//evil" not in location.partition("?")[0]


def unharmed(page: str) -> None:
    """No markup of `EVIL` is left as markup, and no template was run."""
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "49" not in re.findall(r"'\"&(.*?)</textarea>", page)
    assert "</textarea></pre>" not in page


async def test_texts_of_jobs_stay_texts_as_sidekiq_and_others_had_to_learn(
    mails: JobQueue, viewer: Viewer
) -> None:
    name = "".join(EVIL.split())[:150]

    class EvilError(Exception): ...

    EvilError.__qualname__ = name

    @mails.register(JobName(name, dict[str, str]), retry=no_retry())
    async def fail(parameters: dict[str, str], context: JobContext) -> None:
        raise EvilError(EVIL) if "raise" in parameters else Fail(EVIL)

    ids = [f"{EVIL}-{number}" for number in range(2)]
    evil = JobName(name, dict[str, str])
    await mails.push({EVIL: EVIL, "raise": ""}, evil, job_id=ids[0], headers={"evil": EVIL})
    await mails.push({EVIL: EVIL}, evil, job_id=ids[1])
    await run_all(mails)
    waiting = await mails.push({EVIL: EVIL}, evil, unique=EVIL, limit_key="<b>")
    await mails.control.set_limit(name, max_concurrency=1)
    await mails.control.pause(name)

    for view in [
        "",
        "jobs?state=dead",
        "jobs",
        "failures",
        "limits",
        "workers",
        f"job?{urlencode({'id': waiting.id})}",
    ]:
        unharmed((await viewer.get(view)).text)
    for job_id in ids:
        for view in ("job", "edit"):
            page = (await viewer.get(f"{view}?{urlencode({'id': job_id})}")).text
            unharmed(page)
            assert "&lt;script&gt;alert(1)" in page
    asked = await viewer.post("delete", [("id", job_id) for job_id in ids])
    unharmed(asked.text)


async def test_ids_that_are_not_utf8_are_found_and_deleted(
    mails: JobQueue, viewer: Viewer, redis_store: RedisStore
) -> None:
    entry = redis_store.admin.xadd(f"{redis_store.prefix}dead", {"id": b"\xff/%61?&", "name": "Mail"})
    redis_store.admin.hset(f"{redis_store.prefix}jobs", b"\xff/%61?&", b"dead " + entry)

    page = (await viewer.get("jobs?state=dead")).text
    link = re.search(r'class="to" href="([^"]+)"', page)
    value = re.search(r'name="id" value="([^"]+)"', page)

    assert link is not None
    assert value is not None
    assert (await viewer.client.get(link[1].replace("&amp;", "&"))).status_code == 200
    assert "Deleted 1 job." in await viewer.act("delete", id=value[1].replace("&amp;", "&"), sure="1")


async def test_a_fault_of_the_page_shows_no_traceback_and_its_address_forges_no_line_of_the_log(
    mails: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(visit: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setitem(VIEWS, "li\nmits", broken)
    caplog.set_level("ERROR", "redisjobs")
    answer = await Viewer(Dashboard(mails), mails.name).get("li%0Amits")

    assert answer.status_code == 500
    assert answer.text == "Internal error; see the log of the page's process\n"
    assert [record.message for record in caplog.records] == [f"the page failed: /{mails.name}/li\\nmits"]
