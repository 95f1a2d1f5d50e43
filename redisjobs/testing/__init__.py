"""Tests of applications that use redisjobs, see `Jobs`; and of drivers, see docs/drivers.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redisjobs.testing.jobs import AsyncJobs as AsyncJobs
    from redisjobs.testing.jobs import Jobs as Jobs

__all__ = ["AsyncJobs", "Jobs"]


def __getattr__(name: str) -> Any:
    # pytest imports this package for its plugin, in projects that use none of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from redisjobs.testing import jobs

    return getattr(jobs, name)
