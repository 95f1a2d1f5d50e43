"""Waits for a job, for commands with `--wait`."""

from contextlib import suppress
from typing import Any

import anyio

from redisjobs.base.visible import visible
from redisjobs.cli.bar import Bar
from redisjobs.cli.errors import CommandError, Failure
from redisjobs.cli.target import where
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, JobFailed, NoResult
from redisjobs.queue import JobQueue


class TimedOut(CommandError):
    """The job has not ended within the timeout: exit code 124, like timeout(1)."""

    code = 124


class LeftAlone(CommandError):
    """Ctrl-C ended the wait: exit code 130, like a shell."""

    code = 130


def wait_for(queue: Registry, job_id: str, timeout: float | None) -> Any:
    """Wait until a job has ended, and return its result as plain JSON.

    Raises:
        Failure: The job has no result. If it is a dead letter, the text has the error and its traceback.
        TimedOut: The job has not ended within the timeout.
        LeftAlone: Ctrl-C was pressed.
        DriverError: Redis refuses to answer.
    """
    try:
        return anyio.run(_wait, queue, job_id, timeout)
    except JobFailed as error:
        raise Failure("\n".join([f"{error} ({where(queue)})", *error.traceback.splitlines()])) from None
    except NoResult as error:
        raise Failure(f"{error} ({where(queue)})") from None
    except TimeoutError as error:
        raise TimedOut(f"{error} ({where(queue)})") from None
    except KeyboardInterrupt:
        raise LeftAlone(f"interrupted; job {visible(job_id)} goes on ({where(queue)})") from None


async def _wait(queue: Registry, job_id: str, timeout: float | None) -> Any:
    result: Any = None
    failure: Exception | None = None
    with Bar(job_id) as bar:
        async with JobQueue(queue.driver, queue.name) as waits, anyio.create_task_group() as tasks:

            async def follow() -> None:
                with suppress(DriverError):  # the wait for the result ends with the same error
                    async for progress in waits.watch(job_id):
                        bar.show(progress)

            tasks.start_soon(follow)
            try:
                result = await waits.result(job_id, timeout=timeout)
            except Exception as error:  # kept, because the task group would wrap it in a group
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result
