"""What a forked process must reset: its parent goes on using the threads and connections that both have."""

import os
import weakref
from typing import Protocol


class ForkReset(Protocol):
    """A thing that a forked process resets."""

    def begin(self) -> None:
        """Drop all that is there, without using it, and begin with nothing."""


_begun: "weakref.WeakSet[ForkReset]" = weakref.WeakSet()


def begin_after_fork(thing: ForkReset) -> None:
    """Reset a thing in each forked process, for as long as the thing exists.

    It happens as the process starts: with only one thread, none sees it half done.
    """
    _begun.add(thing)


def _begin_all() -> None:
    for thing in list(_begun):
        thing.begin()


if hasattr(os, "register_at_fork"):  # else nothing forks here
    os.register_at_fork(after_in_child=_begin_all)
