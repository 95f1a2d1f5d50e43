"""What both faces of a queue offer to a program that runs its jobs, or is the lifespan of an application."""

from typing import TYPE_CHECKING, Unpack

from redisjobs.client.registry import Registry

if TYPE_CHECKING:
    from redisjobs.service import AppLifespan, Lifespan, OnFailure, Service, WorkerOptions


class Serving(Registry):
    """A queue that can be run inside of a program. What runs jobs is loaded when that is asked for."""

    def service(
        self,
        *,
        worker: bool = True,
        schedules: bool | None = None,
        on_failure: "OnFailure" = "raise",
        **options: "Unpack[WorkerOptions]",
    ) -> "Service":
        """A worker and a scheduler of this queue as one thing inside of a program; see `Service`."""
        from redisjobs.service import Service

        return Service(self, worker=worker, schedules=schedules, on_failure=on_failure, **options)

    def lifespan(
        self,
        *,
        worker: bool = True,
        schedules: bool | None = None,
        then: "AppLifespan | None" = None,
        on_failure: "OnFailure" = "raise",
        **options: "Unpack[WorkerOptions]",
    ) -> "Lifespan":
        """What an application on ASGI takes as its `lifespan=`; see `Lifespan`.

        With `worker=False` it is the producer's side alone: it connects at the start, and closes at the end.
        Options of a worker change nothing then.
        """
        from redisjobs.service import Lifespan

        return Lifespan(self, then=then, on_failure=on_failure, worker=worker, schedules=schedules, **options)
