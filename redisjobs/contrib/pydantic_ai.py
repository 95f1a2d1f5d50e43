"""Runs of Pydantic AI's agents that outlive a worker: each model request and tool call is a step of a job."""

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from pydantic_ai import AgentRunResult, RunContext, UserError
from pydantic_ai.capabilities import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    DurableOperationId,
    ExternalEventError,
    ExternalEventWaiter,
    JournalCallableOperationBackend,
    RoleBasedOperationConfig,
    external_event_scope,
    record_durable_unit,
    replay_scope,
)
from pydantic_ai.toolsets import ToolsetTool

from redisjobs.errors import UnwritableResult
from redisjobs.model.context import JobContext, current_job
from redisjobs.model.sync_verbs import JobContext as SyncContext

Deps = TypeVar("Deps")

_MISSING = object()

_is_in_step: ContextVar[bool] = ContextVar("redisjobs.contrib.pydantic_ai.is_in_step", default=False)
_agent_runs = WeakKeyDictionary[JobContext[Any], Counter[str]]()
"""How many runs of each agent have begun in a run of a job."""


class JobDurability(BaseDurabilityCapability[Deps]):
    """A capability that makes the runs of an agent durable inside of a job.

    In an async handler, each model request, each tool call and each listing of an MCP server's tools is a step of
    the job. If the worker dies, or the job is retried, the agent starts over and finds them done. Outside of a job
    the agent runs as usual. What it does inside of a step, as the tool of another agent, belongs to that step.

    - `models`: models by a key of yours, for `agent.run(model="key")`.
    - `event_stream_handler`: gets the agent's events, each in a step: the model's in that of its request.
    - `name`: what the names of the steps begin with. Defaults to the name of the agent.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="redisjobs",
        durable_unit_noun="step",
        durable_container_noun="job",
        codec=JSON_CODEC,
        # Toolsets given to a run were not wrapped when the agent was made, so their calls would be no steps.
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-in-durable-unit", "dynamic": "enter-never"},
        serialization_failure=lambda error: UnwritableResult(f"an answer can't be kept as JSON: {error}"),
    )

    @property
    def in_durable_context(self) -> bool:
        """Whether a job runs here, outside of its steps. In a sync handler it is an error."""
        return _job() is not None

    def get_durable_operation_backend(self) -> "_AgentSteps":
        """Return what makes steps of an agent's operations."""
        return _AgentSteps(self.name)

    def get_default_run_id(self) -> str | None:
        """Return an id that is the same in each run of the job: of the job, the agent, and a number."""
        if (job := _job()) is None:
            return None
        runs = _agent_runs.setdefault(job, Counter())
        runs[self.name] += 1
        return f"{job.job_id}:{self.name}:{runs[self.name]}"

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """Return when a run with a timeout first began, from a step."""

        def now() -> datetime:
            return datetime.now(UTC)

        job = _job()
        return None if job is None else await job.step(_step(f"{self.name}__start:{run_id}"), now)

    async def wrap_run(self, ctx: RunContext[Deps], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Let waits of the run be waits for signals, and leave out spans of what is not called again."""
        if (job := _job()) is None:
            return await super().wrap_run(ctx, handler=handler)
        with replay_scope(), external_event_scope(_AgentWait(job, _which(job, self.name, ctx))):
            return await super().wrap_run(ctx, handler=handler)


def signal_of(token: str) -> tuple[str, str]:
    """Return the job's id and the signal's name from the token that the handler of `HandleDeferredToolCalls` got.

    `await queue.signal(*signal_of(token), answer)` lets the run go on. Other text is a ValueError.
    """
    name, sign, job_id = token.partition("#")
    if not (name and sign and job_id):
        raise ValueError(f"{token!r:.80} is no token of a job's agent: give the one that `ask` got")
    return job_id, name


class _AgentSteps(JournalCallableOperationBackend[None]):
    """Makes a step of each operation of an agent."""

    def __init__(self, agent_name: str) -> None:
        none: dict[str, Any] = dict.fromkeys(("model", "event", "capability", "tool"))
        super().__init__(agent_name=agent_name, config=RoleBasedOperationConfig(**none, resolve_tool=_of_tool))
        self._agent_name = agent_name

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: None,
    ) -> object:
        """Run an operation in a step, unless it is in one."""
        if (job := _job()) is None:
            return await body()
        context = next((each for each in cache_key if isinstance(each, RunContext)), None)
        which = "" if context is None else _which(job, self._agent_name, context)
        called = list[bool]()

        async def step() -> Any:
            called.append(True)
            token = _is_in_step.set(True)
            try:
                return await body()
            finally:
                _is_in_step.reset(token)

        result = await job.step(_step(name + which), step)
        record_durable_unit(executed=bool(called))
        return result


class _AgentWait(ExternalEventWaiter):
    """Suspends the job until a signal comes, where a run waits for an event from outside."""

    def __init__(self, job: JobContext[Any], which: str) -> None:
        self._job = job
        self._which = which
        self._waits = Counter[str]()

    async def wait(self, name: str, *, ask: Callable[[str], Awaitable[Any]], timeout: timedelta | None) -> Any:
        self._waits[name] += 1
        number = f":{self._waits[name]}" if self._waits[name] > 1 else ""
        signal = _step(name + self._which + number)

        async def answered() -> Any:
            return await ask(f"{signal}#{self._job.job_id}")

        answer = await self._job.step(_step(f"{signal}.ask"), answered)
        if answer is None:
            answer = await self._job.wait_for(signal, timeout=timeout, default=_MISSING)
        if answer is _MISSING:
            raise ExternalEventError(f"signal '{signal}' did not come in time")
        return answer


def _job() -> JobContext[Any] | None:
    """Return the context of the job that runs here, outside of its steps; or None."""
    job: JobContext[Any] | None = None
    if not _is_in_step.get():
        with suppress(LookupError):
            job = current_job()
    if isinstance(job, SyncContext):
        raise UserError("JobDurability needs an async handler: make it `async def`, and await agent.run()")
    return job


def _of_tool(operation_id: DurableOperationId, tool: object | None, name: str) -> Literal[False] | None:
    """Return False for a tool that is to run outside of steps."""
    metadata = tool.tool_def.metadata if isinstance(tool, ToolsetTool) else None
    return False if metadata and metadata.get("redisjobs") is False else None


def _which(job: JobContext[Any], agent: str, context: RunContext[Any]) -> str:
    """Return what tells an operation from others that may run at the same time: the run, and the tool call."""
    run = (context.run_id or "").removeprefix(f"{job.job_id}:{agent}:")
    return "".join(f":{each}" for each in (run if run != "1" else "", context.tool_call_id) if each)


def _step(text: str) -> str:
    """Return the name of a step that is made of any text."""
    name = re.sub(r"[\s#\x00-\x1f]", "_", text)
    return name if len(name) <= 200 else name[:183] + "-" + blake2b(name.encode(), digest_size=8).hexdigest()
