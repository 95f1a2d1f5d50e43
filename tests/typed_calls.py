"""Calls that type checkers are to let pass, and calls that they are to refuse. Never run: see test_types.py.

A call that is to be refused says so to each checker; such a comment where there is no error is one itself.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, TypedDict, assert_type

from pydantic import BaseModel

from redisjobs import JobContext, JobHandle, JobName, JobQueue, Priority, Worker, sync
from redisjobs.errors import NoResult
from redisjobs.model.transitions import NewJob


@dataclass
class Mail:
    job_name: ClassVar[str] = "Mail"
    to: str = ""


class Letter(BaseModel):
    job_name: ClassVar[str] = "Letter"
    to: str


@dataclass
class Other:
    x: int


class Loose(TypedDict):
    a: int


MAIL = JobName("mail", Mail)
OTHER = JobName("other", Other)
LOOSE = JobName("loose", Loose)
TABLE = JobName("table", dict[str, int])

queue = JobQueue("memory://")
plain = sync.JobQueue("memory://")


# Workers


def workers() -> None:
    Worker(queue)
    Worker(plain, strict=True)
    Worker([queue, plain], weights={"default": 3})
    Worker([(queue, 3), (plain, 0.5)])
    Worker([(queue, 3), plain], concurrency=5)
    Worker(each for each in (queue, plain))
    Worker("emails")  # type: ignore[arg-type]  # pyright: ignore
    Worker([(queue, "3")])  # type: ignore[list-item]  # pyright: ignore
    Worker([queue], weights={queue: 3})  # type: ignore[dict-item]  # pyright: ignore
    Worker([queue], strict="yes")  # type: ignore[arg-type]  # pyright: ignore


# Pushing


async def pushes(prepared: NewJob, name: str) -> None:
    await queue.push(Mail("joe"), delay=5, priority="high")
    await queue.push(Letter(to="joe"), priority=Priority.LOW)
    handle = await queue.push(Mail("joe"), unique="joe", unique_until="start", on_conflict="replace")
    assert_type(handle.replaced, bool)
    await queue.push(Mail("joe"), unique="joe", on_conflict="drop")  # type: ignore[call-overload]  # pyright: ignore
    await queue.push(Mail("joe"), MAIL)
    await queue.push(Other(1), OTHER, headers={"a": "b"})
    await queue.push({"a": 1}, LOOSE)
    await queue.push(Loose(a=1), LOOSE)
    await queue.push({"a": 1}, TABLE)
    await queue.push({"a": 1}, name)
    await queue.push(Other(1), "other")
    await queue.push_many([Mail("joe"), Mail("ann")])
    await queue.push_many([Mail("joe"), prepared, Letter(to="joe")])
    await queue.push_many([prepared])
    await queue.push_many((Other(n) for n in range(3)), OTHER)
    await queue.push_many([{"a": 1}], LOOSE)
    await queue.push_many([{"a": 1}], "loose")
    queue.prepare(Mail("joe"), delay=5)
    queue.prepare({"a": 1}, LOOSE)


async def wrong_pushes() -> None:
    await queue.push(Other(1))  # type: ignore[call-overload]  # pyright: ignore
    await queue.push(Mail("joe"), OTHER)  # type: ignore[misc]  # pyright: ignore
    await queue.push(5, MAIL)  # type: ignore[misc]  # pyright: ignore
    await queue.push({"to": "joe"}, MAIL)  # type: ignore[misc]  # pyright: ignore
    await queue.push(Other(1), LOOSE)  # type: ignore[misc]  # pyright: ignore
    await queue.push(Mail("joe"), Mail)  # type: ignore[call-overload]  # pyright: ignore
    await queue.push(Mail("joe"), dealy=5)  # type: ignore[call-overload]  # pyright: ignore
    await queue.push(Mail("joe"), priority="urgent")  # type: ignore[call-overload]  # pyright: ignore
    await queue.push_many([Other(1)])  # type: ignore[list-item]  # pyright: ignore
    await queue.push_many([Other(1)], MAIL)  # type: ignore[misc]  # pyright: ignore
    queue.prepare(Other(1))  # type: ignore[call-overload]  # pyright: ignore


def sync_pushes() -> None:
    plain.push(Mail("joe"))
    plain.push({"a": 1}, LOOSE)
    plain.push({"a": 1}, "loose")
    plain.push_many([Other(1)], OTHER)
    plain.push(Other(1))  # type: ignore[call-overload]  # pyright: ignore
    plain.push(Mail("joe"), OTHER)  # type: ignore[misc]  # pyright: ignore
    plain.push_many([Other(1)], MAIL)  # type: ignore[misc]  # pyright: ignore


# Registering


@queue.register(Mail)
async def mail(parameters: Mail, context: JobContext) -> int:
    return context.attempt


@plain.register(MAIL, timeout=5)
def short(parameters: Mail) -> str:
    return parameters.to


@queue.register(LOOSE)
def loose(parameters: Loose, context: JobContext | None = None, more: int = 1) -> None: ...


@queue.register(OTHER)
def broad(parameters: object, *rest: object) -> None: ...


queue.register(Mail)(print)
queue.register(Letter)(lambda letter: letter.to)
queue.register(Letter)(lambda letter, context: (letter.to, context.attempt))


@queue.register(MAIL)  # type: ignore[arg-type]  # pyright: ignore
def of_another(parameters: Other) -> None: ...


@queue.register(Mail)  # type: ignore[arg-type]  # pyright: ignore
async def of_another_with_context(parameters: Other, context: JobContext) -> None: ...


@queue.register(Mail)  # type: ignore[arg-type]  # pyright: ignore
def no_context(parameters: Mail, context: int) -> None: ...


@plain.register(Mail)  # type: ignore[arg-type]  # pyright: ignore
def of_nothing() -> None: ...


async def says(context: JobContext, rows: AsyncIterator[Mail]) -> None:
    context.progress(0.5)
    context.progress(1, 2, "half")
    context.progress(1, None, note="some")
    context.progress(note="late")
    context.progress("late")
    context.progress(1, 2, 3)  # type: ignore[call-overload]  # pyright: ignore
    context.extend(timedelta(minutes=1))
    for letter in context.track("abc", total=3):
        letter.upper()
    async for row in context.track(rows):
        row.to.upper()
        row.upper()  # type: ignore[attr-defined]  # pyright: ignore
    context.track(5)  # type: ignore[call-overload]  # pyright: ignore


# Functions


@queue.job(timeout=5, stalled_after=1)
async def charge(card: str, context: JobContext) -> bool:
    return bool(card)


@queue.job
def resize(path: str, width: int = 800) -> int:
    return width


@queue.job
def first(context: JobContext, path: str, *, width: int = 800) -> int:
    return width


@queue.job
def between(path: str, context: JobContext, width: int) -> None: ...


@queue.job
def maybe(path: str, width: int = 5, context: JobContext | None = None) -> None: ...


@queue.job
def maybe_first(context: JobContext | None = None) -> None: ...


@queue.job
def by_keyword(path: str, *, context: JobContext) -> None: ...


@queue.job
def nothing() -> None: ...


@queue.job
def of_anything(payload: Any, width: int = 5) -> None: ...


@queue.job
def of_objects(payload: object, width: int = 5) -> None: ...


@plain.job(name="shrink")
def shrink(context: JobContext, path: str, width: int = 800) -> None: ...


async def function_pushes(card: str) -> None:
    await charge.push(card)
    await charge.push(card=card)
    await charge.options(delay=5).push(card)
    await resize.push("a.png", width=64)
    await resize.push(path="a.png")
    await first.push("a.png", width=64)
    await between.push("a.png", 64)
    await maybe.push("a.png")
    await maybe_first.push()
    await nothing.push()
    await of_anything.push("a", width=5)
    await of_objects.push("a", width=5)
    await queue.job(name="half")(partial(resize, width=400)).push("a.png")
    await queue.push_many([resize.prepare("a.png"), first.prepare("b.png", width=5)])
    shrink.push("a.png", width=64)


async def calls(context: JobContext) -> None:
    assert_type(resize("a.png"), int)
    assert_type(first(context, "a.png", width=64), int)
    assert_type(await charge("card", context), bool)
    maybe("a.png")


async def wrong_function_pushes(context: JobContext) -> None:
    await resize.push(5)  # type: ignore[arg-type]  # pyright: ignore
    await resize.push()  # type: ignore[call-arg]  # pyright: ignore
    await resize.push("a.png", widht=5)  # type: ignore[call-arg]  # pyright: ignore
    await first.push(5)  # type: ignore[arg-type]  # pyright: ignore
    await first.push(context, "a.png")  # type: ignore[call-arg,arg-type]  # pyright: ignore
    await nothing.push(5)  # type: ignore[call-arg]  # pyright: ignore
    await by_keyword.push("a.png")  # type: ignore[call-arg]  # pyright: ignore  # would be right: see JobFunction
    resize.prepare(5)  # type: ignore[arg-type]  # pyright: ignore
    resize.options(dealy=5)  # type: ignore[call-arg]  # pyright: ignore
    shrink.push(5)  # type: ignore[arg-type]  # pyright: ignore
    queue.job(retries=3)  # type: ignore[call-overload]  # pyright: ignore


# What an application sets as its state is of the type that a handler says


@dataclass
class Resources:
    pool: str


@queue.register(OTHER)
async def with_state(parameters: Other, context: JobContext[Resources]) -> None:
    assert_type(context.state, Resources)


@queue.job
async def function_with_state(context: JobContext[Resources], path: str) -> None:
    assert_type(context.state.pool, str)


async def pushes_with_state(context: JobContext) -> None:
    await function_with_state.push("a.png")
    await function_with_state.push(5)  # type: ignore[call-overload]  # pyright: ignore
    assert_type(context.state, None)


# Steps


async def rendered(page: int) -> str:
    return str(page)


def cost(page: int) -> float:
    return page / 2


@queue.job
async def saves(context: JobContext, path: str) -> None:
    assert_type(await context.step("render", rendered, 5), str)
    assert_type(await context.step("cost", cost, page=5), float)
    await context.step("cost", cost, "5")  # type: ignore[call-overload]  # pyright: ignore
    await context.sleep(hours=24)


@queue.job
def saves_in_thread(context: sync.JobContext, path: str) -> None:
    assert_type(context.step("cost", cost, 5), float)
    context.step("cost", cost, "5")  # type: ignore[arg-type]  # pyright: ignore
    context.sleep(hours=24)


@queue.job
async def runs_children(context: JobContext, path: str) -> None:
    assert_type(await context.run(resize.prepare(path)), int)
    assert_type(await context.run(charge.prepare("card")), bool)
    assert_type(await context.run(queue.prepare(Other(1), OTHER)), Any)
    assert_type(await context.run_all([charge.prepare("card") for _ in range(3)]), list[bool])
    assert_type(await context.run_all([charge.prepare("card")], on_failure="return"), list[bool | NoResult])
    pages = [resize.prepare(path)]
    await context.run_all(pages, on_failure="ignore")  # type: ignore[call-overload]  # pyright: ignore
    await context.run(path)  # type: ignore[arg-type]  # pyright: ignore


@queue.job
def runs_children_in_thread(context: sync.JobContext, path: str) -> None:
    assert_type(context.run(charge.prepare("card")), bool)
    assert_type(context.run_all([charge.prepare("card")]), list[bool])
    assert_type(context.run_all([charge.prepare("card")], on_failure="return"), list[bool | NoResult])


@plain.job
def saves_with_state(path: str, context: sync.JobContext[Resources]) -> None:
    assert_type(context.state, Resources)


@plain.register(JobName("saves", Other))
def of_saved(parameters: Other, context: sync.JobContext) -> None: ...


async def pushes_of_saving_jobs(context: JobContext) -> None:
    await saves.push("a.png")
    await saves_in_thread.push("a.png")
    await saves_in_thread.push(5)  # type: ignore[arg-type]  # pyright: ignore
    saves_with_state.push("a.png")


# Results


@queue.job(keep_result=60, strict_result=True)
async def added(a: int, b: int = 1) -> int:
    return a + b


@queue.job
def counted(context: JobContext, path: str) -> dict[str, int]:
    return {path: context.attempt}


@plain.job(keep_result=60)
def halved(number: int) -> float:
    return number / 2


@plain.job(keep_result=60)
async def said(text: str) -> str:
    return text


@queue.register(MAIL, keep_result=60, strict_result=True)
async def kept_mail(parameters: Mail) -> int:
    return len(parameters.to)


async def results(job_id: str) -> None:
    assert_type(await added.push(1), JobHandle[int])
    assert_type(await (await added.push(1)).result(), int)
    assert_type(await (await added.options(keep_result=5).push(1)).result(timeout=5), int)
    assert_type(await added.run(1, b=2), int)
    assert_type(await (await counted.push("a.png")).result(), dict[str, int])
    assert_type(await counted.run("a.png"), dict[str, int])
    assert_type(await queue.result(job_id), Any)
    assert_type(await queue.result(job_id, returns=Letter), Letter)
    assert_type(await queue.result(job_id, returns=list[int], timeout=timedelta(seconds=5)), list[int])
    assert_type(await queue.run(Mail("joe"), timeout=5, keep_result=5, priority="high"), Any)
    assert_type(await queue.run(Mail("joe"), MAIL), Any)
    assert_type(await queue.run({"a": 1}, "loose", timeout=5), Any)
    handle = await queue.push(Mail("joe"), keep_result=timedelta(hours=1))
    assert_type(await queue.result(handle, returns=int), int)


def sync_results(job_id: str) -> None:
    assert_type(halved.push(1), sync.JobHandle[float])
    assert_type(halved.push(1).result(), float)
    assert_type(halved.run(1), float)
    assert_type(said.push("a").result(timeout=5), str)
    assert_type(said.run("a"), str)
    assert_type(plain.result(job_id), Any)
    assert_type(plain.result(job_id, returns=Letter, timeout=5), Letter)
    assert_type(plain.run(Mail("joe"), timeout=5, keep_result=5), Any)
    assert_type(plain.run({"a": 1}, LOOSE), Any)


async def wrong_results() -> None:
    await added.run("1")  # type: ignore[call-overload]  # pyright: ignore
    await added.push(1, c=2)  # type: ignore[call-overload]  # pyright: ignore
    await queue.run(Other(1))  # type: ignore[call-overload]  # pyright: ignore
    await queue.run(Mail("joe"), timeout="5")  # type: ignore[call-overload]  # pyright: ignore
    await queue.push(Mail("joe"), keep_result="an hour")  # type: ignore[call-overload]  # pyright: ignore
    await queue.result(5)  # type: ignore[call-overload]  # pyright: ignore
    queue.job(keep_result="an hour")  # type: ignore[call-overload]  # pyright: ignore
    halved.run("1")  # type: ignore[arg-type]  # pyright: ignore
    plain.result(5)  # type: ignore[call-overload]  # pyright: ignore
