"""Operations that a thread of this process carries out in steps, so that a viewer need not wait for them."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from redisjobs import sync
from redisjobs.base.logger import Log
from redisjobs.client.operation import Operation
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, Forbidden

T = TypeVar("T")

logger = Log("redisjobs")

Seen = Callable[[Any, Any], object]
"""Called with each request of an operation, and its answer."""

_LONGEST_REST = 1.0  # seconds between two steps


def in_thread(run: Callable[[], None], name: str) -> None:
    """Start a thread that does not keep the process from ending."""
    threading.Thread(target=run, name=f"redisjobs-web-{name}", daemon=True).start()


def carry_out(registry: Registry, operation: Operation[Any], what: str) -> str:
    """Carry out an operation in this thread; return why it failed, or ''."""
    try:
        with sync.JobQueue(registry.driver, registry.name, deadline=registry.deadline) as queue:
            queue._calls.do(operation)
    except Forbidden as error:
        return f"The server's ACL refused it: {error}"
    except DriverError as error:
        return str(error)
    except Exception as error:
        logger.exception("the page failed: %s", what)
        return f"{type(error).__name__}; see the log of the page's process"
    return ""


def paced(
    steps: Operation[T], stop: threading.Event, seen: Seen = lambda request, answer: None
) -> Operation[T | None]:
    """Carry out an operation until a stop; between its steps other callers of the server get as much time.

    Returns:
        Its result; None if it was stopped.
    """
    go_on: Callable[[], Any] = partial(steps.send, None)
    while not stop.is_set():
        try:
            request = go_on()
        except StopIteration as end:
            result: T = end.value
            return result
        began = time.monotonic()
        try:
            answer = yield request
        except DriverError as error:
            go_on = partial(steps.throw, error)
            continue
        seen(request, answer)
        stop.wait(min(time.monotonic() - began, _LONGEST_REST))
        go_on = partial(steps.send, answer)
    steps.close()
    return None
