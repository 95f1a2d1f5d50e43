"""What a forked process begins anew, as its parent goes on using what both have: threads and connections."""

import os
import weakref
from typing import Protocol


class ForkReset(Protocol):
    """Something that a forked process begins anew."""

    def begin(self) -> None:
        """Let go of all that is there, without using it, and begin with nothing."""


_begun: "weakref.WeakSet[ForkReset]" = weakref.WeakSet()


def begin_after_fork(thing: ForkReset) -> None:
    """Have a forked process begin something anew, for as long as that is there.

    It is done as the process begins: there is only one thread then, so none sees it half done.
    """
    _begun.add(thing)


def _begin_all() -> None:
    for thing in list(_begun):
        thing.begin()


if hasattr(os, "register_at_fork"):  # else nothing forks here
    os.register_at_fork(after_in_child=_begin_all)
