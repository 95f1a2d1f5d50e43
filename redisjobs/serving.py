"""The methods of a queue that run its jobs inside a program, or as the lifespan of an application."""

from typing import TYPE_CHECKING, Unpack

from redisjobs.client.registry import Registry

if TYPE_CHECKING:
    from redisjobs.service import AppLifespan, Lifespan, OnFailure, Service, WorkerOptions


class Serving(Registry):
    """A queue that can run inside a program. The worker is imported when one of these methods is called."""

    def service(
        self,
        *,
        worker: bool = True,
        schedules: bool | None = None,
        on_failure: "OnFailure" = "raise",
        **options: "Unpack[WorkerOptions]",
    ) -> "Service":
        """Return a service: a worker and a scheduler of this queue inside a program; see `Service`."""
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
        """Return a lifespan for an ASGI application's `lifespan=`; see `Lifespan`.

        With `worker=False` the application only pushes: it connects at the start, and closes at the end. Options
        of a worker then have no effect.
        """
        from redisjobs.service import Lifespan

        return Lifespan(self, then=then, on_failure=on_failure, worker=worker, schedules=schedules, **options)
