"""Tests of applications that use redisjobs, see `Jobs`; and of drivers, see docs/drivers.md."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redisjobs.testing.jobs import AsyncJobs, Jobs
    from redisjobs.testing.moves import JobsServer
    from redisjobs.testing.outcomes import Drained, JobOutcome
    from redisjobs.testing.pushes import Push

_MODULES = {
    "AsyncJobs": "jobs",
    "Drained": "outcomes",
    "JobOutcome": "outcomes",
    "Jobs": "jobs",
    "JobsServer": "moves",
    "Push": "pushes",
}
"""The modules of the exported names: pytest imports this package for its plugin, in projects that don't use it."""

__all__ = ["AsyncJobs", "Drained", "JobOutcome", "Jobs", "JobsServer", "Push"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
