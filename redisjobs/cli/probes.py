"""The HTTP endpoints for health probes: `/livez` and `/readyz`."""

from collections.abc import Callable
from http import HTTPStatus

from redisjobs.cli import responder
from redisjobs.cli.responder import Answer
from redisjobs.worker.settings.health import Health


def serve(where: str, health: Callable[[], Health]) -> None:
    """Serve the probes at HOST:PORT, in a thread; see `responder.serve`."""

    def live() -> Answer:
        now = health()
        return _answer(now.live, now.why)

    def ready() -> Answer:
        now = health()
        return _answer(now.ready, now.why)

    responder.serve("--health", where, {"/livez": live, "/readyz": ready})


def _answer(good: bool, why: str) -> Answer:
    return Answer(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n".encode())
