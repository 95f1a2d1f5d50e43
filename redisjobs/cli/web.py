"""The `web` command, which serves the page of queues."""

import importlib
from contextlib import suppress
from typing import Annotated, Any

import typer

from redisjobs.cli import responder
from redisjobs.cli.errors import Mistake
from redisjobs.cli.output import say
from redisjobs.cli.target import Imports, Moved, Unweighted, check_shared, load, where

Listen = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Where to listen. Any host but this machine needs --auth.")
]
Auth = Annotated[
    str | None,
    typer.Option(
        envvar="REDISJOBS_WEB_AUTH",
        metavar="USER:PASSWORD",
        show_envvar=True,
        help="Ask for this user and password. In the environment they are not in the list of processes.",
    ),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Show no action.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VERB",
        help="Show only these actions; repeatable. One of retry, edit, delete, cancel, hold, pause, schedule, "
        "quiet, stop, limit, repair, push. Defaults to all but push.",
    ),
]
Redacted = Annotated[
    list[str] | None, typer.Option("--redact", metavar="KEY", help="Hide the values of this JSON key; repeatable.")
]
Proxy = Annotated[bool, typer.Option("--trust-proxy", help="X-Forwarded-Host comes from a proxy in front.")]


def web(
    targets: Unweighted,
    listen: Listen = "127.0.0.1:8010",
    auth: Auth = None,
    read_only: ReadOnly = False,
    allow: Allow = None,
    redact: Redacted = None,
    trust_proxy: Proxy = False,
    imports: Imports = None,
    url: Moved = None,
) -> None:
    """Serve a page on which you see and operate queues, until Ctrl-C.

    It listens on this machine only, unless you give --auth. Put TLS in front of it before a password crosses a
    network.
    """
    need_libraries()
    import uvicorn

    from redisjobs.web.board.access import is_loopback
    from redisjobs.web.dashboard import Dashboard

    access = _access(auth, read_only, allow)
    queues = [load(target, url, imports) for target in targets]
    check_shared(queues, "this one can't look into; give --url")
    app = Dashboard(queues, access=access, redact=redact, trust_proxy=trust_proxy)
    with responder.listen("--listen", listen) as listener:
        host, port = listener.getsockname()[:2]
        if auth is None and not is_loopback(host):
            raise Mistake(
                f"--listen {listen}: other machines could reach the page; give --auth USER:PASSWORD, too"
            )
        shown = f"[{host}]" if ":" in host else host
        say(f"{', '.join(map(where, queues))}: http://{shown}:{port}/; Ctrl-C ends this")
        config = uvicorn.Config(app, log_level="warning", server_header=False, proxy_headers=False, ws="none")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _access(auth: str | None, read_only: bool, allow: list[str] | None) -> Any:
    """Return who may do what, by the options."""
    from redisjobs.web.board.access import READ_ONLY, basic_auth, local, verbs_of

    if read_only and allow:
        raise Mistake("--read-only shows no action, and --allow shows some: give one of them")
    try:
        verbs = READ_ONLY if read_only else verbs_of(allow or "all")
        return local(verbs) if auth is None else basic_auth(auth, verbs)
    except ValueError as error:
        raise Mistake(f"{'--allow' if 'Verb' in str(error) else '--auth'}: {error}") from None


def need_libraries() -> None:
    """Raise a `Mistake` unless the extra `web` is installed."""
    for name in ("starlette", "jinja2", "uvicorn"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise Mistake(f"the page needs {name}; in a checkout of redisjobs: pip install '.[web]'") from None
