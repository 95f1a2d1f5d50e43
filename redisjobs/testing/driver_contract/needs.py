"""What a test needs of a driver beyond what all have; a module has `_NEEDS` for all of its tests."""

from collections.abc import Callable
from typing import Any, TypeVar

from redisjobs.model.changes import Change
from redisjobs.model.queries import Query

Test = TypeVar("Test", bound=Callable[..., Any])


def needs(*values: type[Query[Any] | Change[Any]]) -> Callable[[Test], Test]:
    """Skip a test where the driver lacks one of these queries or changes, as its `DriverStore` says."""

    def note(test: Test) -> Test:
        test.__dict__["needs"] = values
        return test

    return note
