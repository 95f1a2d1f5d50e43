"""Pushes one batch of rows of an outbox, and says what became of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from redisjobs.client.push import name_in
from redisjobs.client.registry import Registry
from redisjobs.errors import DecodeError, DriverError, Forbidden, QueueFull, ServerTooOld, Unavailable
from redisjobs.model.driver import OtherVersion, Unsupported
from redisjobs.model.outbox import OutboxRow, job_of
from redisjobs.model.relaying import Relay, row_name
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import MOST_BYTES, NewJob, Pushed, Reply, weight_of

_NOT_NOW = (Unavailable, QueueFull, Forbidden, ServerTooOld, OtherVersion, Unsupported)
"""Errors that say nothing about a row."""


@dataclass(slots=True)
class BatchAnswer:
    """What became of the rows of a batch.

    Attributes:
        done: The rows that were answered, by their numbers: the name that the queue remembers each by.
        refused: The rows that can't be pushed: number, job id, job name and error of each.
        jobs: Id, name, and whether it was added, of each that was answered.
    """

    done: dict[int, str] = field(default_factory=dict)
    refused: list[tuple[int, str, str, str]] = field(default_factory=list)
    jobs: list[tuple[str, str, bool]] = field(default_factory=list)


class RelayBatch:
    """The push of one batch.

    Args:
        queue: The queue that gets the jobs.
        outbox: The outbox's name.
        read_ms: The store's clock before the rows were read.
    """

    def __init__(self, queue: Registry, outbox: str, read_ms: float) -> None:
        self._queue, self._outbox, self._read_ms = queue, outbox, read_ms
        self._relayed = BatchAnswer()

    async def push(self, rows: Sequence[OutboxRow]) -> BatchAnswer:
        """Push rows, and return what became of each.

        Raises:
            DriverError: None of them can be pushed now. Some may have been: the queue remembers them.
        """
        for chunk in _chunks(self._decoded(rows)):
            await self._push(chunk)
        return self._relayed

    def _decoded(self, rows: Sequence[OutboxRow]) -> Mapping[int, NewJob]:
        jobs = dict[int, NewJob]()
        for row in rows:
            try:
                jobs[row.seq] = job_of(row, self._queue.max_parameters)
            except DecodeError as error:
                self._refuse(row.seq, row.job_id, row.name, error)
        return jobs

    def _refuse(self, seq: int, job_id: str, name: str, error: Exception) -> None:
        self._relayed.refused.append((seq, job_id, name, str(error)))

    async def _push(self, jobs: Mapping[int, NewJob]) -> None:
        try:
            await self._relay(jobs)
        except _NOT_NOW:
            raise
        except DriverError as error:
            if len(jobs) > 1:
                await self._push_one_by_one(jobs)
            else:
                self._refuse_all(jobs, dict.fromkeys(jobs, error))

    async def _push_one_by_one(self, jobs: Mapping[int, NewJob]) -> None:
        refused = dict[int, DriverError]()
        for seq, job in jobs.items():
            try:
                await self._relay({seq: job})
            except _NOT_NOW:
                raise
            except DriverError as error:
                refused[seq] = error
        self._refuse_all(jobs, refused)

    def _refuse_all(self, jobs: Mapping[int, NewJob], errors: Mapping[int, DriverError]) -> None:
        """Set jobs aside if the queue takes others; otherwise the queue may be at fault, and not these jobs."""
        for seq, error in errors.items():
            if not self._relayed.done:
                raise error
            self._refuse(seq, jobs[seq].job_id, name_in(jobs[seq]), error)

    async def _relay(self, jobs: Mapping[int, NewJob]) -> None:
        left = list(jobs.items())
        while left:
            answers = await self._ask([job for _, job in left])
            for (seq, job), answer in zip(left, answers, strict=False):
                self._relayed.done[seq] = row_name(job.job_id, job.nonce)
                self._relayed.jobs.append((job.job_id, name_in(job), answer.reply is Reply.OK))
            left = left[len(answers) :]

    async def _ask(self, jobs: Sequence[NewJob]) -> Sequence[Pushed]:
        try:
            with anyio.fail_after(LONGEST_TRY):
                answer = await self._queue.driver.change(Relay(self._outbox, jobs, self._read_ms))
        except TimeoutError as error:
            raise Unavailable(f"no answer from the queue in {LONGEST_TRY:g} s") from error
        if not answer.pushed:
            raise Unavailable("the rows were read too long ago to push them: they are read again")
        return answer.pushed


def _chunks(jobs: Mapping[int, NewJob]) -> Iterator[dict[int, NewJob]]:
    """Yield the jobs in parts by their bytes, each for one call. A batch never has too many jobs for a call."""
    chunk, size = dict[int, NewJob](), 0
    for seq, job in jobs.items():
        chunk[seq], size = job, size + weight_of(job)
        if size >= MOST_BYTES:
            yield chunk
            chunk, size = {}, 0
    if chunk:
        yield chunk
