"""Who may see the page, and which actions each viewer may take."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from redisjobs.base.eventloop import is_awaitable


class Verb(StrEnum):
    """A kind of action of the page."""

    RETRY = "retry"
    """Make dead letters and kept jobs ready again."""
    EDIT = "edit"
    """Make dead letters and kept jobs ready again, with other parameters."""
    DELETE = "delete"
    """Delete dead letters and kept jobs."""
    CANCEL = "cancel"
    """Cancel jobs that wait or run."""
    HOLD = "hold"
    """Hold jobs that wait, and let them start again."""
    SIGNAL = "signal"
    """Send signals to jobs, with any value."""
    PAUSE = "pause"
    """Pause and resume the queue, or a job name."""
    SCHEDULE = "schedule"
    """Run, pause, resume and remove schedules."""
    QUIET = "quiet"
    """Ask workers to claim no more jobs, and to claim again."""
    STOP = "stop"
    """Ask workers to stop."""
    LIMIT = "limit"
    """Set and remove limits."""
    REPAIR = "repair"
    """Repair the data of the queue, as `queue.control.doctor(repair=True)` does."""
    PUSH = "push"
    """Push jobs of any name and with any parameters."""


ALL = frozenset(Verb) - {Verb.PUSH}
"""All verbs except `PUSH`, which only a set that names it grants."""

READ_ONLY: frozenset[Verb] = frozenset()
"""No verb: the viewer sees the page and no action."""

_WORDS = {"all": ALL, "read_only": READ_ONLY}

Answer = Response | frozenset[Verb]
"""The response to a viewer who may not see the page, or the verbs of one who may."""

Access = Callable[[Request], Any]
"""Returns what a viewer may do: see `Dashboard`."""

_FORWARDED = ("forwarded", "x-forwarded", "x-real-ip", "via")
"""How the names of headers begin that proxies add."""


async def granted(access: Access | None, request: Request) -> Answer:
    """Return what the viewer may do, or the response that refuses.

    Raises:
        TypeError: `access` returned something else than its documentation says.
        ValueError: `access` returned an unknown verb.
    """
    answer = (access or local(ALL))(request)
    if is_awaitable(answer):
        answer = await _result(answer)
    if isinstance(answer, Response):
        return answer
    if answer is None or answer is False:
        return PlainTextResponse("Forbidden\n", 403)  # it does not name the product to a stranger
    return verbs_of(answer)


async def _result(answer: Awaitable[Any]) -> Any:
    return await answer


def verbs_of(answer: Any) -> frozenset[Verb]:
    """Return the verbs that a word, True, or several verbs stand for."""
    if answer is True:
        return ALL
    if isinstance(answer, str):
        if answer in _WORDS:
            return _WORDS[answer]
        raise ValueError(f"access={answer!r}: give 'all', 'read_only', or a set of {', '.join(Verb)}")
    if not isinstance(answer, Iterable):
        raise TypeError(f"access returned {answer!r:.100}: give 'all', 'read_only', a set of verbs, or None")
    try:
        return frozenset(map(Verb, answer))
    except ValueError as error:
        raise ValueError(f"{error}: the verbs are {', '.join(Verb)}") from None


def is_local(request: Request) -> bool:
    """Return whether a request comes from this machine, for this machine, without a proxy in between.

    The name in `Host` is checked, because a page on the internet can let its own name point to 127.0.0.1. A proxy
    on this machine connects from 127.0.0.1, too. Nearly all of them add a header that shows it. An nginx without
    settings adds none, but most of its releases then speak HTTP/1.0, which no browser does.
    """
    if request.scope.get("http_version") == "1.0" or any(map(_is_forwarded, request.headers)):
        return False
    host = _hostname(request.headers.get("host", ""))
    is_for_here = host == "localhost" or host.endswith(".localhost") or is_loopback(host)
    return is_for_here and request.client is not None and is_loopback(request.client.host)


def _is_forwarded(header: str) -> bool:
    return header.lower().startswith(_FORWARDED)


def local(verbs: frozenset[Verb]) -> Access:
    """Return an access function that gives these verbs to local viewers, and refuses all others."""
    return lambda request: verbs if is_local(request) else None


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether an address is one of this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_same_origin(request: Request, *, trust_proxy: bool) -> bool:
    """Return whether a page of this site sent the request.

    Browsers send Sec-Fetch-Site over HTTPS and to localhost, and Origin with each POST. A request without both is
    refused: tokens would protect no better, and proxies break them.
    """
    if (site := request.headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    host = request.headers.get("host", "")
    if trust_proxy:
        host = request.headers.get("x-forwarded-host", host).partition(",")[0].strip()
    try:
        origin = urlsplit(request.headers.get("origin", ""))
    except ValueError:
        return False
    return origin.scheme in ("http", "https") and host != "" and origin.netloc.lower() == host.lower()


def basic_auth(credentials: str, verbs: frozenset[Verb]) -> Access:
    """Return an access function that asks for a user and a password, given as `user:password`.

    Raises:
        ValueError: The user or the password is empty.
    """
    user, _, password = credentials.partition(":")
    if not user or not password:
        raise ValueError("give the user and the password as USER:PASSWORD")
    wanted = credentials.encode("utf-8", "surrogateescape")

    def access(request: Request) -> Answer:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Compared in constant time, so that the time of an answer does not tell how much was right.
        if scheme.lower() == "basic" and hmac.compare_digest(_decoded(given), wanted):
            return verbs
        # The realm is the browser's prompt. It does not name the product to a stranger.
        return PlainTextResponse(
            "Login required\n", 401, {"WWW-Authenticate": 'Basic realm="Login", charset="UTF-8"'}
        )

    return access


def _decoded(given: str) -> bytes:
    try:
        return base64.b64decode(given.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
