"""The page as an ASGI application."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from redisjobs.base.logger import Log
from redisjobs.base.visible import number_of, visible
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Forbidden, RedisJobsError, Unavailable
from redisjobs.web.actions import ACTIONS, DONE, Action
from redisjobs.web.board.access import Access, Verb, granted, is_same_origin
from redisjobs.web.board.board import Board
from redisjobs.web.board.bulk import Bulks
from redisjobs.web.board.filters import key_of, parsed, query_of
from redisjobs.web.board.form import ActionOutcome, Form, UnchangedJob, Wrong
from redisjobs.web.board.redaction import Redact, Redaction
from redisjobs.web.board.visit import Missing, ViewAnswer, Visit
from redisjobs.web.pages import forms, tables
from redisjobs.web.pages.doctor import doctor
from redisjobs.web.pages.failures import failures
from redisjobs.web.pages.job import job
from redisjobs.web.pages.jobs import jobs
from redisjobs.web.pages.names import job_name
from redisjobs.web.pages.overview import overview
from redisjobs.web.rendering import render, static_file

logger = Log("redisjobs")

VIEWS = {
    "": overview,
    "jobs": jobs,
    "failures": failures,
    "schedules": tables.schedules,
    "workers": tables.workers,
    "limits": tables.limits,
    "doctor": doctor,
    "job": job,
    "name": job_name,
    "push": forms.push,
    "edit": forms.edit,
    "bulk": forms.bulk,
}
"""The views, by the last part of their address."""

_TABS = (
    ("", "overview", "Overview"),
    ("jobs", "jobs", "Jobs"),
    ("failures", "failures", "Failures"),
    ("schedules", "schedules", "Schedules"),
    ("workers", "workers", "Workers"),
    ("limits", "limits", "Limits"),
    ("doctor", "doctor", "Doctor"),
)
_STATIC = "-"  # no queue's part of an address: see `_slugs`
_MOST_BYTES = 4_000_000  # of a form: the longest parameters take 0.5 MB, and three times as much in a form
_FORM = "application/x-www-form-urlencoded"
_METHODS = "GET, HEAD, OPTIONS, POST"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer, browsers send `Origin: null` with a form. Over plain HTTP they send no Sec-Fetch-Site, so
    # Origin is all that shows where the form came from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Dashboard:
    """A page on which you see and operate queues: an ASGI application to run or to mount under any path.

    It connects with its first request, and needs no lifespan. Requests use the connections of the queue's driver.
    Without `access`, it answers only requests from this machine to `localhost` that did not come through a proxy.

    Args:
        queues: A queue, or several: async or sync ones.
        access: Called with the Starlette request of each viewer, sync or async. It returns `"all"` or True;
            `"read_only"`; a set of `Verb`; None or False if the viewer may not see the page; or a response, for
            example a redirect to your login. `"all"` does not include `Verb.PUSH`: only a set that names it does.
        redact: Names of JSON keys, as `["password", "token"]`: their values are hidden in parameters and results,
            and where errors and tracebacks repeat them, if they have 3 characters or more. Or a function that gets
            the job's name, one of `parameters`, `result`, `step`, `error`, `traceback`, `progress`, `headers`,
            `unique`, `limit_key`, and the text; it returns the text to show. `step` is the name of a step or of a
            signal, or its value. The name is '' where it is not known, and the text of an error or of old
            parameters may be cut.
        trust_proxy: Whether X-Forwarded-Host is right, because a proxy in front sets it.

    Raises:
        TypeError: There is no queue, or one of them is not a queue.
    """

    def __init__(
        self,
        queues: Registry | Iterable[Registry],
        *,
        access: Access | None = None,
        redact: Redact | Iterable[str] | None = None,
        trust_proxy: bool = False,
    ) -> None:
        given = [queues] if isinstance(queues, Registry) else list(queues)
        if not given or not all(isinstance(queue, Registry) for queue in given):
            raise TypeError(f"queues={queues!r:.100}: give a JobQueue, or several")
        redaction = Redaction(redact)
        self._boards = {slug: Board(queue, slug, redaction) for slug, queue in _slugs(given).items()}
        self._bulks = {slug: Bulks() for slug in self._boards}
        self._access, self._trust_proxy = access, trust_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            request = Request(scope, receive)
            response = await self._answer(request)
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
            await response(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, request: Request) -> Response:
        try:
            verbs = await granted(self._access, request)
            if isinstance(verbs, Response):
                return verbs
            return await self._respond(request, verbs)
        except Exception:  # a server in debug mode would show a traceback with the values of variables
            logger.exception("the page failed: %s", visible(request.scope["path"], 200))
            return PlainTextResponse("Internal error; see the log of the page's process\n", 500)

    async def _respond(self, request: Request, verbs: frozenset[Verb]) -> Response:
        path = _path(request.scope)
        first, _, view = path.partition("/")
        match request.method:
            case "OPTIONS":
                return Response(status_code=204, headers={"Allow": _METHODS})
            case "GET" | "HEAD" if first == _STATIC:
                return _file(view)
            case "GET" | "HEAD" if not first:
                return await self._home(request)
            case "GET" | "HEAD" if first in self._boards:
                if "/" not in path:
                    return RedirectResponse(f"{_root(request)}/{quote(first)}/", 307)
                return await self._view(request, verbs, first, view)
            case "POST" if first in self._boards and view.startswith("act/"):
                return await self._act(request, verbs, first, view.removeprefix("act/"))
            case "GET" | "HEAD" | "POST":
                return PlainTextResponse("Not found\n", 404)
        return PlainTextResponse("Method not allowed\n", 405, {"Allow": _METHODS})

    # Views

    async def _home(self, request: Request) -> Response:
        root = _root(request)
        if len(self._boards) == 1:
            return RedirectResponse(f"{root}/{quote(next(iter(self._boards)))}/", 307)
        rows = list[tuple[str, str, Any, str]]()
        for slug, board in self._boards.items():
            counts, error = None, ""
            try:
                counts = await board.counts()
            except DriverError as failed:
                error = str(failed)
            rows.append((f"{root}/{quote(slug)}/", board.name, counts, error))
        data = {"rows": rows, "root": root, "now": datetime.now(UTC)}
        return _html(
            request, ViewAnswer("home", "Queues", data), data | {"here": f"{root}/", "tabs": (), "board": None}
        )

    async def _view(self, request: Request, verbs: frozenset[Verb], slug: str, view: str) -> Response:
        visit = await self._visit(request, verbs, slug)
        read = VIEWS.get(view)
        try:
            if read is None:
                raise Missing("There is no such page.")
            page = await read(visit)
        except Missing as error:
            page = ViewAnswer("message", "Not found", {"said": str(error), "details": ()}, 404)
        except DriverError as error:
            page = _away(error)
        return self._html(request, visit, page, view)

    async def _visit(self, request: Request, verbs: frozenset[Verb], slug: str) -> Visit:
        board = self._boards[slug]
        base = f"{_root(request)}/{quote(slug)}"
        try:
            query = dict(parsed(request.scope["query_string"]))
        except ValueError:
            query = {}
        allowed = await board.rights.allowed(verbs)
        return Visit(board, self._bulks[slug], base, allowed, query, datetime.now(UTC))

    def _html(
        self, request: Request, visit: Visit, page: ViewAnswer, view: str, *, polls: bool = True
    ) -> Response:
        query = {key: value for key, value in visit.query.items() if key not in ("did", "n")}
        here = view + (f"?{query_of(query)}" if query else "")
        data = {
            "visit": visit,
            "board": visit.board,
            "root": _root(request),
            "here": here,
            "poll": f"{visit.base}/{here}" if page.is_live and polls else "",
            "tabs": [(f"{visit.base}/{path}", name, label) for path, name, label in _TABS],
            "boards": [(f"{_root(request)}/{quote(slug)}/", board.name) for slug, board in self._boards.items()],
            "did": _said(visit.query),
            "verbs": visit.verbs,
            "now": visit.now,
        }
        return _html(request, page, data)

    # Actions

    async def _act(self, request: Request, verbs: frozenset[Verb], slug: str, word: str) -> Response:
        if not is_same_origin(request, trust_proxy=self._trust_proxy):
            return PlainTextResponse("Forbidden: the form is from another site\n", 403)
        form = await _form(request)
        if isinstance(form, Response):
            return form
        visit = await self._visit(request, verbs, slug)
        view, query = _back(form.get("back"))
        visit = replace(visit, query=query)
        page = await self._carried_out(visit, word, form)
        if isinstance(page, ActionOutcome):
            return RedirectResponse(_after(visit, page, view), 303)
        return self._html(request, visit, page, view, polls=page.template == "bulk")

    async def _carried_out(self, visit: Visit, word: str, form: Form) -> ActionOutcome | ViewAnswer:
        """Carry out an action; return a page if there is something to read or to answer."""
        action = ACTIONS.get(word)
        if action is None or (action.verb is not None and action.verb not in visit.verbs):
            return ViewAnswer("message", "Not allowed", {"said": "You may not do this here.", "details": ()}, 403)
        try:
            if form.get("sure") != "1" and (asked := await _asked(visit, action, form)):
                fields = [(key, value) for key, value in form.fields if key != "sure"]
                question = _Answerable(asked, action.label, word, fields)
                return ViewAnswer("confirm", "Confirm", {"question": question}, is_live=False)
            done = await action.run(visit, form)
        except Forbidden as error:
            if action.verb is not None:
                visit.board.rights.refused(action.verb)
            said = "The server's ACL does not allow this user to do it. The page does not offer it for a minute."
            return ViewAnswer("message", "Refused", {"said": said, "details": [UnchangedJob("", str(error))]}, 403)
        except Missing as error:
            return ViewAnswer("message", "Not found", {"said": str(error), "details": ()}, 404)
        except Unavailable as error:
            said = "The server did not answer. The change may or may not be made: look before you repeat it."
            return ViewAnswer(
                "message", "No answer", {"said": said, "details": [UnchangedJob("", str(error))]}, 503
            )
        except (Wrong, RedisJobsError, ValueError, TypeError) as error:
            return ViewAnswer("message", "Not done", {"said": str(error), "details": ()}, 422)
        finally:
            visit.board.snapshots.forget()
        if isinstance(done, ActionOutcome) and done.refused:
            said = DONE[done.done].format(number_of(done.count, "job")) if done.count else "Nothing was changed."
            return ViewAnswer("message", "Not all was done", {"said": said, "details": done.refused}, 409)
        return done


@dataclass(frozen=True, slots=True)
class _Answerable:
    """A question before an action, with the fields of its form."""

    asked: str
    label: str
    word: str
    fields: Sequence[tuple[str, str]]


async def _asked(visit: Visit, action: Action, form: Form) -> str:
    if not isinstance(action.asks, str):
        return await action.asks(visit, form)
    return action.asks.format(number_of(len(form.ids), "job")) if "{}" in action.asks else action.asks


def _said(query: Mapping[str, str]) -> str:
    """Return what the last action did, from the word and the count in a link. The link can't hold other text."""
    said, number = DONE.get(query.get("did", ""), ""), query.get("n", "")
    return said.format(number_of(int(number) if re.fullmatch("[0-9]{1,6}", number) else 1, "job"))


def _after(visit: Visit, outcome: ActionOutcome, view: str) -> str:
    """Return the address to show after an action. It is always one of this page's own."""
    if outcome.to:
        return outcome.to
    did = {"did": outcome.done, "n": str(outcome.count)}
    if outcome.job_id:
        return visit.url("job", id=key_of(outcome.job_id), **did)
    return visit.url(view, **{**visit.query, **did})


def _back(back: str) -> tuple[str, dict[str, str]]:
    """Return the view and the query that a form came from; the overview if it is none of them."""
    view, _, query = back.partition("?")
    try:
        fields = dict(parsed(query)) if view in VIEWS else {}
    except ValueError:
        fields = {}
    return (view if view in VIEWS else ""), {
        key: value for key, value in fields.items() if key not in ("did", "n")
    }


def _away(error: DriverError) -> ViewAnswer:
    is_gone = isinstance(error, Unavailable)
    data = {"error": str(error), "is_gone": is_gone, "is_forbidden": isinstance(error, Forbidden)}
    title = "No answer" if is_gone else "An error of the server"
    return ViewAnswer("away", title, data, 503, is_live=not is_gone)  # else the page itself reloads


# HTTP


async def _form(request: Request) -> Form | Response:
    """Return the form in a request, or the response that refuses it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return PlainTextResponse(f"Send a form, as {_FORM}\n", 415)
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                return PlainTextResponse("The form is too large\n", 413)
        return Form(parsed(body))
    except (ValueError, ClientDisconnect):
        return PlainTextResponse("The form can't be read\n", 400)


def _html(request: Request, page: ViewAnswer, data: Mapping[str, Any]) -> Response:
    is_fragment = request.headers.get("hx-request") == "true"
    frame = {"page": page, "is_fragment": is_fragment, "poll": "", "did": "", "boards": (), "verbs": frozenset()}
    body = render(page.template, {**frame, **data, **page.data})
    tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Vary": "HX-Request"}
    # A page that is shown and reads itself again must learn that its job is gone: htmx shows no answer with a 404.
    status = 200 if is_fragment and page.status == 404 else page.status
    if status == 200 and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, status, headers, "text/html; charset=utf-8")


def _file(name: str) -> Response:
    found = static_file(name)
    if found is None:
        return PlainTextResponse("Not found\n", 404)
    return Response(found[0], headers={"Cache-Control": "private, max-age=86400"}, media_type=found[1])


def _path(scope: Scope) -> str:
    """Return the path of a request below the place where the page is mounted, without its first slash."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return str(path).removeprefix("/")


def _root(request: Request) -> str:
    return quote(request.scope.get("root_path", "").rstrip("/"))


def _slugs(queues: Iterable[Registry]) -> dict[str, Registry]:
    """Return the queues by their part of an address: the name, and a number if several have one name."""
    found = dict[str, Registry]()
    for queue in queues:
        name = re.sub(r"[^\w.:@-]", "_", queue.name)
        name = f"_{name}" if name in (_STATIC, ".", "..") else name
        number = 1
        slug = name
        while slug in found:
            number += 1
            slug = f"{name}-{number}"
        found[slug] = queue
    return found


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
