"""The methods of the async and the sync queue that explain what happens on it.

The code of each is imported when it is called: a program that only pushes does not load it.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from redisjobs.base.arguments import flag
from redisjobs.client.calls import Calls, SyncCalls
from redisjobs.model.job import JobName, PushedJob

if TYPE_CHECKING:
    from redisjobs.control.doctor import Progress
    from redisjobs.model.health import Finding
    from redisjobs.model.statistics import Interval, Overview
    from redisjobs.model.why import Why


class Diagnosis(Calls):
    """The calls that explain what happens on an async queue."""

    async def why(self, job: str | PushedJob | None = None, *, unique: str | None = None) -> "Why":
        """Find out why a job does not run, or what became of it.

        Args:
            job: The job, or its id.
            unique: A unique key, instead of the job: the job that holds it.

        Returns:
            The cause, a sentence for a person, the facts behind it, and what to do. It looks at no more than 1,000
            jobs that start before it. A fact that the server's ACL hides is left out.
        """
        from redisjobs.control.why import why

        return await self._do(why(self.name, job, unique))

    async def doctor(self, *, repair: bool = False, progress: "Progress | None" = None) -> "list[Finding]":
        """Check the queue and its server: each job is in one place, notes are right, workers and schedules run.

        It may run on a busy queue. It looks at all jobs, in steps of at most 500 and 1 MB, and at the names of all
        keys of the server. A run that is stopped leaves nothing half done: just run it again.

        Args:
            repair: Correct what loses no job. Nothing is deleted that could be a job.
            progress: Called after each step, with how many things were looked at, and about how many there are.

        Returns:
            The findings: first the data, then workers, backlog and schedules, then the server. What the server's
            ACL hides has the level `unknown`.
        """
        from redisjobs.control.doctor import doctor

        return await self._do(doctor(self.name, flag(repair, "repair"), progress))

    async def statistics(
        self,
        last: float | timedelta = 3600,
        name: str | JobName[Any] | None = None,
        *,
        since: datetime | None = None,
    ) -> "list[Interval]":
        """Return what happened lately on the queue, by minute, or by ten minutes for more than 8 hours.

        Workers report what they settle about every 10 seconds, and each minute how many jobs are in each state. A
        minute in which no worker was there has zeros and no sample.

        Args:
            last: How many seconds to go back, or a timedelta; up to 3 days.
            name: A job name. Defaults to all.
            since: Leave out the intervals that ended before this time. A closed interval does not change any more,
                so read the rest again from the start of the last interval that was not closed.

        Returns:
            The intervals, the oldest first. The last one is the current one, which is not closed.
        """
        from redisjobs.control.statistics import statistics

        return await self._do(statistics(last, name, since))

    async def overview(self, previous: "Overview | None" = None) -> "Overview":
        """Return what happened in the last hour, by job name and by cause of death.

        Args:
            previous: The result of an earlier call. Then only the minutes since are read.
        """
        from redisjobs.control.statistics import overview

        return await self._do(overview(previous))


class SyncDiagnosis(SyncCalls):
    """The calls that explain what happens on a sync queue."""

    def why(self, job: str | PushedJob | None = None, *, unique: str | None = None) -> "Why":
        """Find out why a job does not run, or what became of it; see `redisjobs.JobQueue.why`."""
        from redisjobs.control.why import why

        return self._do(why(self.name, job, unique))

    def doctor(self, *, repair: bool = False, progress: "Progress | None" = None) -> "list[Finding]":
        """Check the queue and its server, and maybe repair its data; see `redisjobs.JobQueue.doctor`."""
        from redisjobs.control.doctor import doctor

        return self._do(doctor(self.name, flag(repair, "repair"), progress))

    def statistics(
        self,
        last: float | timedelta = 3600,
        name: str | JobName[Any] | None = None,
        *,
        since: datetime | None = None,
    ) -> "list[Interval]":
        """Return what happened lately on the queue; see `redisjobs.JobQueue.statistics`."""
        from redisjobs.control.statistics import statistics

        return self._do(statistics(last, name, since))

    def overview(self, previous: "Overview | None" = None) -> "Overview":
        """Return what happened in the last hour, by name and cause; see `redisjobs.JobQueue.overview`."""
        from redisjobs.control.statistics import overview

        return self._do(overview(previous))
