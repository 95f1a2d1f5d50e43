"""Marks tests with the optional queries and changes that they need; `_NEEDS` does so for a whole module."""

from collections.abc import Callable
from typing import Any, TypeVar

from redisjobs.model.changes import Change
from redisjobs.model.queries import Query

Test = TypeVar("Test", bound=Callable[..., Any])


def needs(*values: type[Query[Any] | Change[Any]]) -> Callable[[Test], Test]:
    """Skip a test if the driver lacks one of these queries or changes, by the `lacks` of its `DriverStore`."""

    def note(test: Test) -> Test:
        test.__dict__["needs"] = values
        return test

    return note
