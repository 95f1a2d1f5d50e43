"""What a push means that is nearly right, and what a handler says for all pushes of its jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import anyio
import pytest
from operating import FACES, done
from pydantic import BaseModel

from redisjobs import EncodeError, JobName, Priority
from redisjobs.errors import RegistrationError, UnknownJob

pytestmark = pytest.mark.anyio


@dataclass
class Bill:
    job_name: ClassVar[str] = "Bill"
    order: int
    kind: str = "final"


class Model(BaseModel):
    order: int


class Loose(TypedDict):
    order: int


@pytest.fixture(params=FACES)
def queue(request: pytest.FixtureRequest) -> Any:
    return FACES[request.param]("memory://", "shop")


# Nearly right


@pytest.mark.parametrize("how", ["push", "prepare", "run"])
async def test_push_options_among_the_arguments_of_a_function_say_what_to_write(queue: Any, how: str) -> None:
    @queue.job  # type: ignore[untyped-decorator]  # either face
    def resize(path: str) -> None: ...

    wanted = r"arguments are the function's own, so write resize.options\(delay=\.\.\., priority=\.\.\.\).push"
    with pytest.raises(EncodeError, match=wanted):
        await done(getattr(resize, how)("a.png", delay=5, priority="high"))
    with pytest.raises(EncodeError, match=r"say how long to wait by asyncio\.timeout"):
        await done(resize.run("a.png", timeout=5))
    assert (await done(queue.control.counts())).delayed == 0


async def test_an_argument_that_is_called_as_an_option_is_the_functions(queue: Any) -> None:
    @queue.job  # type: ignore[untyped-decorator]  # either face
    def wait(delay: int, priority: str) -> None: ...

    job = await done(wait.push(5, priority="any"))
    info = await done(job.info())
    assert (info.state, info.priority, info.parameters) == ("ready", "normal", '{"delay":5,"priority":"any"}')
    job = await done(wait.options(delay=60, priority="high").push(delay=5, priority="any"))
    info = await done(job.info())
    assert (info.state, info.priority, info.parameters) == ("delayed", "high", '{"delay":5,"priority":"any"}')


@pytest.mark.parametrize("rest", [(1,), ("a.png",), ()])
@pytest.mark.parametrize("more", [{}, {"width": 64}])
async def test_a_function_that_is_pushed_by_its_queue_says_how_it_is_pushed(
    queue: Any, rest: tuple[Any, ...], more: dict[str, Any]
) -> None:
    @queue.job  # type: ignore[untyped-decorator]  # either face
    def resize(path: str, width: int = 1) -> None: ...

    with pytest.raises(TypeError, match=r"resize is a job itself: push its arguments, as resize.push\(\.\.\.\)"):
        await done(queue.push(resize, *rest, **more))

    @queue.register(Bill)  # type: ignore[untyped-decorator]  # either face
    def bill(parameters: Bill) -> None: ...

    with pytest.raises(TypeError, match="bill is a function: push the parameters that it takes"):
        await done(queue.push(bill, *(rest or (5,)), **more))


async def test_parameters_and_name_the_other_way_round_and_a_name_without_a_handler_say_what_to_write(
    queue: Any,
) -> None:
    queue.register(Bill)(lambda parameters: None)
    with pytest.raises(TypeError, match=r"the parameters come first: push\(\{'order': 5\}, 'Bill'\)"):
        await done(queue.push("Bill", {"order": 5}))
    with pytest.raises(UnknownJob, match=r"give JobName\('Other', T\), T being the type of its parameters"):
        await done(queue.push({"order": 5}, "Other"))
    with pytest.raises(
        TypeError, match=r"'Bill' is the name of a job: push its parameters first, as push\(\{...\}, 'Bill'\)"
    ):
        await done(queue.push("Bill"))
    assert (await done(queue.push({"order": 5}, "Bill"))).added
    assert (await done(queue.push(Loose(order=5), JobName("Other", Loose)))).added


# What a handler says for all pushes


async def test_the_priority_of_a_handler_is_that_of_its_jobs_where_the_push_says_none(queue: Any) -> None:
    queue.register(Bill, priority="high")(lambda parameters: None)

    @queue.job(priority=Priority.LOW)  # type: ignore[untyped-decorator]  # either face
    def tidy() -> None: ...

    for push, wanted in (
        (lambda: queue.push(Bill(1)), "high"),
        (lambda: queue.push(Bill(1), priority="low"), "low"),
        (lambda: queue.push(Bill(1), priority=None), "high"),
        (lambda: queue.push({"order": 1}, "Bill"), "high"),
        (tidy.push, "low"),
        (tidy.options(priority="normal").push, "normal"),
    ):
        assert (await done((await done(push())).info())).priority == wanted
    many = await done(queue.push_many([Bill(1), tidy.prepare()]))
    assert [(await done(job.info())).priority for job in many] == ["high", "low"]


@pytest.mark.parametrize("unique", ["bill-{order}-{kind}", lambda bill: f"bill-{bill.order}-{bill.kind}"])
async def test_a_handler_says_the_unique_key_of_its_jobs_by_their_parameters(queue: Any, unique: Any) -> None:
    queue.register(Bill, unique=unique)(lambda parameters: None)

    @queue.job(unique=unique)  # type: ignore[untyped-decorator]  # either face
    def bill(order: int, kind: str = "final") -> None: ...

    first = await done(queue.push(Bill(1)))
    assert (await done(first.info())).unique == "bill-1-final"
    again = await done(bill.push(1))
    assert (again.added, again.id) == (False, first.id)
    assert (await done(bill.push(1, kind="draft"))).added
    assert (await done(queue.push(Bill(1), unique=None))).added  # this one has none
    assert (await done(queue.push(Bill(1), unique="other"))).added
    assert (await done(bill.options(unique_for=60, on_conflict="skip").push(7))).added
    other = await done(queue.push(Bill(7), on_conflict="replace", delay=5))
    assert not other.added


async def awaited(parameters: Any) -> str:
    return "key"


@pytest.mark.parametrize("kind", [Bill, Model, Loose], ids=lambda kind: kind.__name__)
async def test_a_template_knows_what_parameters_there_are(queue: Any, kind: Any) -> None:
    name = JobName("Bill", kind)
    for wrong, why in (
        ("bill-{ordre}", "no parameter is called 'ordre'; there are order"),
        ("bill-{}", "no parameter is called ''"),
        ("bill-{0}", "no parameter is called '0'"),
        ("bill-{", 'give a plain function of the parameters, or a text as "Bill-{order}"'),
        (5, "unique=5: give a plain function"),
        ("", "unique='': give a plain function"),
        (awaited, "unique=<function awaited .*: give a plain function"),
    ):
        with pytest.raises(RegistrationError, match=why):
            queue.register(name, unique=wrong)(lambda parameters: None)
    queue.register(name, unique="bill-{order:03}")(lambda parameters: None)
    job = await done(queue.push(kind(order=5), name))
    assert (await done(job.info())).unique == "bill-005"


def nothing(parameters: Any) -> None:
    return None


def broken(parameters: Any) -> str:
    raise KeyError("no such order")


@pytest.mark.parametrize(("unique", "why"), [(broken, "no such order"), (lambda _: 5, "unique=5")])
async def test_a_key_that_is_none_is_no_key_and_one_that_can_not_be_is_an_error_at_the_push(
    queue: Any, unique: Callable[[Any], Any], why: str
) -> None:
    queue.register(Bill, unique=unique)(lambda parameters: None)
    queue.job(name="free", unique=nothing)(lambda: None)
    with pytest.raises(EncodeError, match=f"Bill: unique= gave no key for these parameters .*{why}"):
        await done(queue.push(Bill(1)))
    for _ in range(2):
        assert (await done(queue.push({}, "free"))).added
    with pytest.raises(ValueError, match="priority='urgent'"):
        queue.register(JobName("Other", Bill), priority="urgent")
    await anyio.lowlevel.checkpoint()
