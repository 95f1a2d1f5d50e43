"""The web page of queues: `redisjobs web`, or a `Dashboard` inside your application. Needs the extra `web`."""

try:
    from redisjobs.web.dashboard import Dashboard
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("starlette", "jinja2"):
        raise
    raise ModuleNotFoundError(
        f"redisjobs.web needs {error.name}; in a checkout of redisjobs: pip install '.[web]'", name=error.name
    ) from error

from redisjobs.web.board.access import ALL, READ_ONLY, Verb

__all__ = ["ALL", "READ_ONLY", "Dashboard", "Verb"]
