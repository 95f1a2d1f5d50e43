"""An agent of Pydantic AI in a job: its model requests and tool calls are steps, and its waits are signals."""

import asyncio
from collections.abc import AsyncIterable
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from results import drain
from store import Store

from redisjobs import JobContext, JobQueue, State, no_retry
from redisjobs.model.steps import GetSteps

pydantic_ai = pytest.importorskip("pydantic_ai", reason="needs the extra `pydantic-ai`, which `dev` brings")

from pydantic_ai import (  # noqa: E402
    Agent,
    AgentStreamEvent,
    DeferredToolRequests,
    FunctionToolset,
    ModelMessage,
    ModelResponse,
    RunContext,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.capabilities import HandleDeferredToolCalls, Instrumentation  # noqa: E402
from pydantic_ai.exceptions import UserError  # noqa: E402
from pydantic_ai.models.function import AgentInfo, FunctionModel  # noqa: E402
from pydantic_ai.models.instrumented import InstrumentationSettings  # noqa: E402
from pydantic_ai.models.test import TestModel  # noqa: E402

from redisjobs.contrib.pydantic_ai import JobDurability, signal_of  # noqa: E402

pytestmark = pytest.mark.anyio
HOUR = 3600.0


class Calls(list[str]):
    """What a model and its tools were asked for, in order."""

    def model(self, *turns: list[ToolCallPart | TextPart]) -> FunctionModel:
        """Return a model that gives these answers one after another."""

        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            turn = sum(isinstance(message, ModelResponse) for message in messages)
            self.append(f"model {turn}")
            return ModelResponse(parts=turns[turn])

        return FunctionModel(answer)


async def keys(queue: JobQueue, job_id: str) -> list[str]:
    (steps,) = await queue.driver.read(GetSteps([job_id]))
    assert steps is not None
    return sorted(steps.saved, key=lambda key: steps.saved[key].number)


async def test_what_a_model_and_a_tool_have_answered_is_not_asked_for_again(queue: JobQueue) -> None:
    calls = Calls()
    model = calls.model([ToolCallPart("weather", {"city": "Rome"}, "call-1")], [TextPart("sunny")])
    agent = Agent(model, name="my agent", capabilities=[JobDurability()])
    answers = list[str]()

    @agent.tool_plain
    async def weather(city: str) -> dict[str, Any]:
        calls.append(city)
        return {"city": city, "degrees": 30}

    @queue.job(retry=no_retry())
    async def ask(context: JobContext) -> None:
        result = await agent.run("How is Rome?")
        answers.append(f"{result.output} {len(result.new_messages())} {result.usage.requests}")
        if len(answers) == 1:
            raise LookupError

    job = await ask.push()
    await drain(queue)
    assert await keys(queue, job.id) == [
        "my_agent__model.request",
        "my_agent__function_toolset__<agent>.call_tool:weather:call-1",
        "my_agent__model.request#2",
    ]

    await queue.control.requeue(job)
    await drain(queue)
    assert calls == ["model 0", "Rome", "model 1"]
    assert answers == ["sunny 4 2"] * 2


async def test_a_tool_that_failed_is_called_again_and_what_came_before_is_not(queue: JobQueue) -> None:
    calls = Calls()
    model = calls.model([ToolCallPart("pay", {}, "call-1")], [TextPart("paid")])
    agent = Agent(model, name="agent", capabilities=[JobDurability()])

    @agent.tool_plain
    def pay() -> str:
        calls.append("pay")
        if calls.count("pay") == 1:
            raise ConnectionError
        return "ok"

    @queue.job(retry=no_retry(), keep_result=60)
    async def ask() -> str:
        return (await agent.run("Pay.")).output

    job = await ask.push()
    await drain(queue)
    await queue.control.requeue(job)
    await drain(queue)

    assert await job.result(timeout=5) == "paid"
    assert calls == ["model 0", "pay", "pay", "model 1"]


async def test_parallel_calls_of_one_tool_and_parallel_runs_of_one_agent_are_told_apart(queue: JobQueue) -> None:
    calls = Calls()
    parts: list[ToolCallPart | TextPart] = [ToolCallPart("double", {"n": n}, f"call-{n}") for n in range(3)]

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        calls.append("model")
        last = [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        return ModelResponse(parts=[TextPart(f"{last}")] if last else parts)

    agent = Agent(FunctionModel(answer), name="agent", capabilities=[JobDurability()])
    meeting = asyncio.Barrier(6)
    outputs = list[list[str]]()

    @agent.tool_plain
    async def double(n: int) -> int:
        calls.append("double")
        await meeting.wait()  # all calls run at the same time
        return 2 * n

    @queue.job(retry=no_retry())
    async def ask() -> None:
        results = await asyncio.gather(agent.run("one"), agent.run("two"))
        outputs.append([each.output for each in results])
        if len(outputs) == 1:
            raise LookupError

    job = await ask.push()
    await drain(queue)
    await queue.control.requeue(job)
    await drain(queue)

    assert outputs == [["[0, 2, 4]"] * 2] * 2
    assert (calls.count("model"), calls.count("double")) == (4, 6)


async def test_a_run_that_waits_for_a_person_suspends_the_job(queue: JobQueue) -> None:
    calls, tokens = Calls(), list[str]()

    async def mail(context: RunContext[None], requests: DeferredToolRequests, token: str) -> None:
        calls.append(f"ask for {requests.approvals[0].tool_name}")
        tokens.append(token)

    first, second = (ToolCallPart("refund", {"order": n}, f"call-{n - 6}") for n in (7, 8))
    model = calls.model([first], [second], [TextPart("done")])
    agent = Agent(model, name="agent", capabilities=[JobDurability(), HandleDeferredToolCalls(mail)])

    @agent.tool_plain(requires_approval=True)
    async def refund(order: int) -> str:
        calls.append(f"refund {order}")
        return "refunded"

    @queue.job(keep_result=60)
    async def ask() -> str:
        return (await agent.run("Refund.")).output

    job = await ask.push()
    for number in (1, 2):
        await drain(queue)
        info = await queue.get(job)
        assert info is not None
        assert info.state is State.SUSPENDED
        assert str(info.waits_for).startswith("signal deferred_tool_calls")
        assert signal_of(tokens[-1])[0] == job.id
        await queue.signal(*signal_of(tokens[-1]), {"approvals": {f"call-{number}": True}})
    await drain(queue)

    assert await job.result(timeout=5) == "done"
    first_turn, second_turn = ["model 0", "ask for refund", "refund 7"], ["model 1", "ask for refund", "refund 8"]
    assert calls == [*first_turn, *second_turn, "model 2"]
    assert len(set(tokens)) == 2
    assert (await queue.control.counts()).totals["retried"] == 0


async def test_a_person_who_does_not_answer_in_time_has_denied(queue: JobQueue, store: Store) -> None:
    calls = Calls()
    model = calls.model([ToolCallPart("refund", {}, "call-1")], [TextPart("denied")])
    request = HandleDeferredToolCalls[None](lambda _context, _requests, _token: None, timeout=timedelta(hours=1))
    agent = Agent(model, name="agent", capabilities=[JobDurability(), request])

    @agent.tool_plain(requires_approval=True)
    async def refund() -> None:
        calls.append("refund")

    @queue.job(keep_result=60)
    async def ask() -> str:
        return (await agent.run("Refund.")).output

    job = await ask.push()
    await drain(queue)
    store.clock.ahead += HOUR + 1
    await drain(queue)

    assert await job.result(timeout=5) == "denied"
    assert calls == ["model 0", "model 1"]


async def test_a_tool_may_run_outside_of_steps_and_wait_itself(queue: JobQueue) -> None:
    calls = Calls()
    model = calls.model([ToolCallPart("look", {}, "call-1")], [TextPart("seen")])
    agent = Agent(model, name="agent", deps_type=JobContext, capabilities=[JobDurability()])

    @agent.tool(metadata={"redisjobs": False})
    async def look(context: RunContext[JobContext]) -> Any:
        calls.append("look")
        return await context.deps.wait_for("go")

    @queue.job(keep_result=60)
    async def ask(context: JobContext) -> str:
        return (await agent.run("Look.", deps=context)).output

    job = await ask.push()
    await drain(queue)
    await queue.signal(job, "go", "there")
    await drain(queue)

    assert await job.result(timeout=5) == "seen"
    assert calls == ["model 0", "look", "look", "model 1"]


async def test_events_come_once(queue: JobQueue) -> None:
    seen = list[str]()

    async def on_events(context: RunContext[None], events: AsyncIterable[AgentStreamEvent]) -> None:
        seen.extend([event.event_kind async for event in events])

    agent = Agent(TestModel(), name="agent", capabilities=[JobDurability(event_stream_handler=on_events)])

    @agent.tool_plain
    async def look() -> str:
        return "seen"

    @queue.job(retry=no_retry())
    async def ask() -> None:
        await agent.run("Hello.")
        raise LookupError

    job = await ask.push()
    await drain(queue)
    assert {"part_start", "function_tool_call", "function_tool_result"} <= set(first := list(seen))
    await queue.control.requeue(job)
    await drain(queue)
    assert seen == first


async def test_spans_of_model_requests_and_tool_calls_come_once(queue: JobQueue) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    settings = InstrumentationSettings(tracer_provider=provider)
    agent = Agent(TestModel(), name="agent", capabilities=[JobDurability(), Instrumentation(settings=settings)])

    @agent.tool_plain
    async def look() -> str:
        return "seen"

    @queue.job(retry=no_retry())
    async def ask() -> None:
        await agent.run("Hello.")
        raise LookupError

    job = await ask.push()
    await drain(queue)
    await queue.control.requeue(job)
    await drain(queue)
    names = [span.name for span in spans.get_finished_spans()]
    assert names == ["chat test", "execute_tool look", "chat test", *["invoke_agent agent"] * 2]


async def test_an_answer_of_a_tool_that_can_not_be_kept_is_a_dead_letter_at_once(queue: JobQueue) -> None:
    agent = Agent(TestModel(), name="agent", capabilities=[JobDurability()])

    @agent.tool_plain
    async def look() -> object:
        return object()

    @queue.job
    async def ask() -> None:
        await agent.run("Hello.")

    job = await ask.push()
    await drain(queue)
    info = await queue.get(job)
    assert info is not None
    assert (info.state, info.attempt) == (State.DEAD, 1)
    assert "an answer can't be kept as JSON" in info.traceback


async def test_the_time_limit_of_a_run_counts_from_its_first_begin(queue: JobQueue) -> None:
    agent = Agent(TestModel(), name="agent", capabilities=[JobDurability()])

    @queue.job(retry=no_retry())
    async def ask() -> None:
        await agent.run("Hello.", timeout=HOUR)
        raise LookupError

    job = await ask.push()
    await drain(queue)
    assert await keys(queue, job.id) == [f"agent__start:{job.id}:agent:1", "agent__model.request"]


async def test_an_agent_that_is_the_tool_of_another_one_is_a_part_of_its_step(queue: JobQueue) -> None:
    inner = Agent(TestModel(custom_output_text="inner"), name="inner", capabilities=[JobDurability()])
    outer = Agent(TestModel(), name="outer", capabilities=[JobDurability()])
    seen = list[str]()

    @outer.tool_plain
    async def delegate() -> str:
        return (await inner.run("Go.")).output

    @queue.job(retry=no_retry())
    async def ask() -> None:
        seen.append((await outer.run("Go.")).output)
        raise LookupError

    job = await ask.push()
    await drain(queue)
    assert seen == ['{"delegate":"inner"}']
    assert not [key for key in await keys(queue, job.id) if key.startswith("inner")]


async def test_outside_of_a_job_an_agent_runs_as_usual() -> None:
    agent = Agent(TestModel(custom_output_text="hello"), name="agent", capabilities=[JobDurability()])

    assert (await agent.run("Hello.")).output == "hello"


async def test_a_sync_handler_is_refused_with_what_to_do(queue: JobQueue) -> None:
    agent = Agent(TestModel(), name="agent", capabilities=[JobDurability()])
    errors = list[str]()

    @queue.job(retry=no_retry())
    def ask() -> None:
        with pytest.raises(UserError) as raised:
            asyncio.run(agent.run("Hello."))  # run_sync leaves its event loop open
        errors.append(str(raised.value))

    await ask.push()
    await drain(queue)
    assert errors == ["JobDurability needs an async handler: make it `async def`, and await agent.run()"]


async def test_tools_given_to_a_run_are_refused_because_their_calls_would_be_no_steps(queue: JobQueue) -> None:
    agent, errors = Agent(TestModel(), name="agent", capabilities=[JobDurability()]), list[str]()

    @queue.job
    async def ask() -> None:
        with pytest.raises(UserError) as raised:
            await agent.run("Hello.", toolsets=[FunctionToolset([signal_of], id="late")])
        errors.append(str(raised.value))

    await ask.push()
    await drain(queue)
    assert "cannot be added at runtime with redisjobs" in errors[0]


async def test_a_long_name_of_an_agent_makes_names_of_steps_that_fit(queue: JobQueue) -> None:
    @queue.job(retry=no_retry())
    async def ask() -> None:
        for end in "xy":
            await Agent(TestModel(), name="a b#" * 60 + end, capabilities=[JobDurability()]).run("Hello.")
        raise LookupError

    job = await ask.push()
    await drain(queue)
    assert [len(key) for key in await keys(queue, job.id)] == [200, 200]


@pytest.mark.parametrize("token", ["", "name", "#", "name#", "#job"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="is no token of a job's agent"):
        signal_of(token)
