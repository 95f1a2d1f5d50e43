"""The steps of one run: finds what earlier runs have saved, and saves what this one does."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from redisjobs.base.visible import visible
from redisjobs.errors import JobSuspended, StepsFull, UnwritableResult
from redisjobs.model.requests import (
    Answered,
    AwaitStep,
    BeginStep,
    Begun,
    EndStep,
    LeaveStep,
    Request,
    RunChildren,
    SaveCheckpoint,
)
from redisjobs.model.steps import MOST_STEP_BYTES, MOST_STEPS, How, Saved, Steps, key_of, name_of
from redisjobs.model.transitions import Group, Reply, SaveStep, Suspend, Wait, WaitsFor
from redisjobs.worker.running.children import ChildCalls, Writer, new_group
from redisjobs.worker.running.pushes import HandlerPushes

_NO_CHILDREN = b"[]"
_REFUSED = "the server refuses to write it, which may be too large"

Loaded = Callable[[Steps | BaseException], object]
"""Called with what a job has saved, or with the error."""


class RunSteps:
    """The steps of one run. Call all methods in the worker's event loop.

    Args:
        run: The run.
        children: The calls about its children.
        version: Of its handler.
        steps: What earlier runs have saved.

    Attributes:
        suspend: How to suspend the job, because a wait is not over; None: no wait has ended the run.
        pushes: The children that this adds; None for none.
        saved_by: The version of the handler that saved the first of them; None if none is saved.
        checkpoint: The last one, JSON; None if none is saved.
        last_wait: The number of the last wait that was over when the run began; 0 if there was none.
    """

    def __init__(self, run: Writer, children: ChildCalls, version: int, steps: Steps) -> None:
        self._run = run
        self._children = children
        self._version = version
        self.saved_by = steps.version
        self._saved = dict(steps.saved)
        self._groups = dict(steps.groups)  # tokens by key
        self.checkpoint = steps.checkpoint
        self._bytes = len(steps.checkpoint or b"") + sum(
            len(key) + len(saved.value) for key, saved in self._saved.items()
        )
        self._last = max((saved.number for saved in self._saved.values()), default=0)  # number of the last step
        self._occurrences = Counter[str]()
        self._open = dict[str, str]()  # steps that have begun and not ended: key by name
        self._saves = dict[str, list[Answered]]()  # steps that are being saved: who waits for that, by key
        self._waiting: list[Answered] = []  # for an answer of the store
        self._over: BaseException | None = None
        self.suspend: Suspend | None = None
        self.pushes: HandlerPushes | None = None
        self._unseen = {
            key: saved.number for key, saved in self._saved.items()
        }  # the handler has not come to them
        self._is_past = False  # it has begun a step that is not saved
        waits = (saved.number for saved in self._saved.values() if saved.how is not How.DONE)
        self.last_wait = max(waits, default=0)

    @property
    def has_some(self) -> bool:
        """Whether the job may have saved something."""
        return self._last > 0 or self.checkpoint is not None or bool(self._groups)

    @property
    def left_out(self) -> str:
        """The first saved step that the handler has not come to; '' if there is none."""
        return min(self._unseen, key=self._unseen.__getitem__, default="")

    @property
    def drops_chunks(self) -> bool:
        """Whether what the handler emits now is of another run.

        Until it has come to all saved steps, or begins one that is not saved, an earlier run has emitted it.
        Behind a wait that is not over, the next run will.
        """
        return self.suspend is not None or (bool(self._unseen) and not self._is_past)

    def ask(self, request: Request, answered: Answered) -> None:
        """Take a request of the handler; see `Asked`."""
        match request:
            case LeaveStep():
                self._leave(request)
                answered(None)
            case _ if self._over is not None:
                answered(self._over)
            case EndStep(key, value):
                self._finish(key, value, answered)
            case _ if self.suspend is not None:
                answered(_suspended(self.suspend.wait))
            case BeginStep(name):
                self._begin(name, answered)
            case AwaitStep():
                self._await(request, answered)
            case SaveCheckpoint(value):
                self._save_checkpoint(value, answered)
            case RunChildren():
                self._run_children(request, answered)

    def end(self, error: BaseException) -> None:
        """Answer all requests with this error from now on, because the run is over or was given up."""
        self._over = error
        waiting, self._waiting = self._waiting, []
        for answered in waiting:
            answered(error)

    def _next(self, name: str) -> str | BaseException:
        """Return the key of the next step of this name; an error if one of the name has not ended."""
        if name in self._open or key_of(name, self._occurrences[name]) in self._saves:
            return ValueError(
                f"step '{visible(name)}' has not ended: steps that run at the same time need different names, or "
                "the next run can't tell them apart"
            )
        self._occurrences[name] += 1
        key = key_of(name, self._occurrences[name])
        self._unseen.pop(key, None)
        return key

    def _begin(self, name: str, answered: Answered) -> None:
        key = self._next(name)
        if isinstance(key, BaseException):
            answered(key)
            return
        saved = self._saved.get(key)
        if saved is not None and saved.how is not How.DONE:
            answered(_another_kind(key, saved))
        elif saved is not None and (waiting := self._saves.get(key)):  # a call of it was cancelled meanwhile
            waiting.append(lambda error: answered(error or Begun(key, saved.value)))
        elif saved is None and (full := self._full(key)):
            answered(_no_step(key, full))
        else:
            if saved is None:
                self._open[name] = key
                self._is_past = True
            answered(Begun(key, None if saved is None else saved.value))

    def _finish(self, key: str, value: bytes, answered: Answered) -> None:
        if full := self._full(key, value):
            answered(UnwritableResult(f"step '{visible(key)}' has run, and is not saved: {full}"))
            return
        self._open.pop(name_of(key), None)
        self._last += 1
        self._keep(key, Saved(self._last, 0, How.DONE, value))  # now, so that it counts against the limits
        waiting = self._saves[key] = [answered]

        def tell(error: BaseException | None) -> None:
            for each in waiting:
                each(error)

        def done(reply: Reply) -> None:
            del self._saves[key]
            tell(None if reply is Reply.OK else _not_saved(key, reply))

        self._save(SaveStep(key, self._last, value, self._version), done, tell)

    def _save(self, step: SaveStep, done: Callable[[Reply], object], answered: Answered) -> None:
        once = self._once(answered, done)
        self._run.write(step, lambda reply, _: once(reply))

    def _keep(self, key: str, saved: Saved) -> None:
        self._saved[key] = saved
        self._bytes += len(key) + len(saved.value)

    def _leave(self, step: LeaveStep) -> None:
        self._open.pop(step.name, None)
        self._occurrences[step.name] -= 1
        if step.call in self._waiting:
            self._waiting.remove(step.call)

    def _full(self, key: str, value: bytes = b"") -> str:
        """Return why the job has no room for this step; '' if it has."""
        others = self._open.keys() - {name_of(key)}
        if len(self._saved) + len(others) >= MOST_STEPS:
            return (
                f"this job has saved {MOST_STEPS:,} steps, and can save no more: push a job that does the rest, "
                "or save a checkpoint instead of a step for each item"
            )
        if self._bytes + len(key) + len(value) > MOST_STEP_BYTES:
            result = f"its result has {len(value):,} bytes of JSON and " if value else ""
            return (
                f"{result}the job has saved {self._bytes:,} bytes, of {MOST_STEP_BYTES:,} at most: keep large "
                "data elsewhere, return where it is"
            )
        return ""

    def _await(self, request: AwaitStep, answered: Answered) -> None:
        key = self._next(request.name)
        if isinstance(key, BaseException):
            answered(key)
            return
        saved = self._saved.get(key)
        if saved is not None:
            answered(_another_kind(key, saved) if saved.how is How.DONE else saved)
        elif full := self._full(key):
            answered(_no_step(key, full))
        else:
            self._last += 1
            wait = Wait(self._last, request.what, key)
            self.suspend = Suspend(wait, request.due, version=self._version)
            answered(_suspended(wait))

    def _run_children(self, request: RunChildren, answered: Answered) -> None:
        key = self._next(request.name)
        if isinstance(key, BaseException):
            answered(key)
            return
        saved = self._saved.get(key)
        if saved is not None and saved.how is How.CHILDREN:
            self._children.find(saved.value.decode(), request.jobs, self._once(answered, answered))
        elif saved is not None:
            is_empty = saved.how is How.DONE and saved.value == _NO_CHILDREN
            answered([] if is_empty and not request.jobs else _another_kind(key, saved))
        elif full := self._full(key):
            answered(_no_step(key, full))
        elif request.jobs:
            self._add_children(key, request, answered)
        else:
            self._finish(key, _NO_CHILDREN, lambda answer: answered([] if answer is None else answer))

    def _add_children(self, key: str, request: RunChildren, answered: Answered) -> None:
        token = self._groups.get(key)
        group = Group(token, key, len(request.jobs)) if token else new_group(key, request.jobs)
        self._groups[key] = group.token
        self._open[request.name] = key

        def added(last: Any) -> None:
            self._open.pop(request.name, None)
            if isinstance(last, BaseException):
                answered(last)
                return
            if self.suspend is None:
                self._last += 1
                wait = Wait(self._last, WaitsFor.CHILDREN, key)
                self.suspend = Suspend(wait, version=self._version, group=group, pushes=last.jobs)
                self.pushes = last
            else:  # another wait was first
                last.lost()
            answered(_suspended(self.suspend.wait))

        waits = self._once(answered, added)
        self._children.add(group, request, self._version, waits, is_new=token is None)

    def _once(self, answered: Answered, take: Callable[[Any], object]) -> Callable[[Any], bool]:
        """Return a function that takes an answer of the store, and returns False if nothing waits for it."""
        self._waiting.append(answered)

        def taken(answer: Any) -> bool:
            if answered not in self._waiting:  # the run is over, or the handler has given up the call
                return False
            self._waiting.remove(answered)
            take(answer)
            return True

        return taken

    def _save_checkpoint(self, value: bytes, answered: Answered) -> None:
        before = len(self.checkpoint or b"")
        if self._bytes - before + len(value) > MOST_STEP_BYTES:
            answered(
                StepsFull(
                    f"the checkpoint has {len(value):,} bytes of JSON, and the job's steps have "
                    f"{self._bytes - before:,}, of {MOST_STEP_BYTES:,} at most; the one before stays"
                )
            )
            return

        def done(reply: Reply) -> None:
            if reply is Reply.OVERSIZED:
                answered(UnwritableResult(f"the checkpoint is not saved: {_REFUSED}"))
                return
            self.checkpoint = value
            self._bytes += len(value) - before
            answered(None)

        self._save(SaveStep("", 0, value, self._version), done, answered)


def _no_step(key: str, full: str) -> StepsFull:
    return StepsFull(f"step '{visible(key)}': {full}")


def _not_saved(key: str, reply: Reply) -> Exception:
    if reply is Reply.OVERSIZED:
        return UnwritableResult(f"step '{visible(key)}' has run, and is not saved: {_REFUSED}")
    return RuntimeError(f"step '{visible(key)}' was saved by another run meanwhile: {reply}")


def _suspended(wait: Wait) -> JobSuspended:
    return JobSuspended(f"the job waits in step '{visible(wait.key)}': let this pass")


def _another_kind(key: str, saved: Saved) -> ValueError:
    was = "the result of a function" if saved.how is How.DONE else "how a wait ended"
    return ValueError(
        f"step '{visible(key)}' is saved as {was}: give another name, or requeue the job from before it"
    )
