"""What a type leaves open comes back as it was pushed, or is refused; what it pins costs nothing to look at."""

import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Optional, TypeVar, Union
from uuid import UUID

import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, RootModel
from pydantic_core import CoreSchema, core_schema

from redisjobs import EncodeError, JobName, JobQueue, sync
from redisjobs.errors import RegistrationError
from redisjobs.model.payload import decode_parameters, encode_parameters

T = TypeVar("T")

NOW = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)


class Colour(StrEnum):
    RED = "red"


class Size(Enum):
    SMALL = 1


class Level(IntEnum):
    LOW = 1


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Point3(Point):
    z: float = 0.0


@dataclass
class Pin(Point):
    """Adds nothing but its type."""


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: list[str] = []


class Bag(BaseModel):
    model_config = ConfigDict(extra="allow")
    size: int = 0


class Reply(str):
    __slots__ = ()


class Row(NamedTuple):
    a: int
    b: str


class Options(typing_extensions.TypedDict):
    a: typing_extensions.NotRequired[int]


class Tree(BaseModel):
    value: Any = None
    children: list["Tree"] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Cow(BaseModel):
    kind: Literal["cow"] = "cow"
    milk: float = 1.0


class Money:
    """A type of the user's own, without an `__eq__`."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> "Money":
            return value if isinstance(value, Money) else Money(int(value))

        written = core_schema.plain_serializer_function_ser_schema(lambda money: money.cents)
        return core_schema.no_info_plain_validator_function(read, serialization=written)


class Forgetful(Money):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Forgetful) and other.cents == self.cents

    def __repr__(self) -> str:
        return f"Forgetful({self.cents})"

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(lambda money: money.cents)
        return core_schema.no_info_plain_validator_function(lambda _: Forgetful(0), serialization=written)


class Root(RootModel[Any]):
    pass


def named(kind: Any) -> JobName[Any]:
    """A job with one field of that type."""

    @dataclass
    class Job:
        field: kind

    return JobName("Job", Job)


def trip(kind: Any, value: Any) -> Any:
    """What a field of that type comes back as."""
    name = named(kind)
    return decode_parameters(name, encode_parameters(name, name.parameters(value))).field


OPEN: list[Any] = [Any, object, Optional[Any], "Any"]  # noqa: UP045


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (NOW, r"Job\.field would arrive as a str, not as a datetime; annotate it with datetime"),
        (date(2024, 2, 29), "as a str, not as a date;"),
        (timedelta(1), "as a str, not as a timedelta;"),
        (Decimal("0.10"), "as a str, not as a Decimal;"),
        (UUID(int=1), "as a str, not as a UUID;"),
        (Path("/tmp"), "as a str, not as a PosixPath;"),
        (Colour.RED, "as a str, not as a Colour;"),
        (Size.SMALL, "as a int, not as a Size;"),
        (Level.LOW, "as a int, not as a Level;"),
        (b"raw", "as a str, not as a bytes;"),
        ((1, 2), "as a list, not as a tuple;"),
        ({1}, "as a list, not as a set;"),
        (frozenset({1}), "as a list, not as a frozenset;"),
        (Row(1, "x"), "as a list, not as a Row;"),
        ({1: "a"}, r"Job\.field has a key 1 that would arrive as '1'; annotate it, as dict\[int, ...\]"),
        ({None: 1}, "has a key None that would arrive as 'None'"),
        ({Colour.RED: 1}, "has a key <Colour.RED: 'red'> that would arrive as 'red'"),
        ({1: "a", "1": "b"}, "has 2 keys, and would arrive with 1"),
        ({"a": [1, {"b": NOW}]}, r"Job\.field\.a\.1\.b would arrive as a str"),
        (Point(1, 2), "as a dict, not as a Point;"),
        (Animal(name="x"), "as a dict, not as a Animal;"),
        (OrderedDict(a=1), "as a dict, not as a OrderedDict;"),
        ((n for n in range(3)), "as a list, not as a generator;"),
    ],
)
def test_what_nothing_is_said_of_and_would_change_on_the_way_is_refused(kind: Any, value: Any, why: str) -> None:
    with pytest.raises(EncodeError, match=why):
        trip(kind, value)


@pytest.mark.parametrize("kind", [*OPEN, Root])
@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**100, 1.5, -0.0, 1e300, "", "größe", "2024-02-29", "1", [], {},
        [1, [2.0, None]], {"a": {"": [True, {"b": "c"}]}}, [[[[]]]],
    ],
)  # fmt: skip
def test_what_json_has_comes_back_as_it_was(kind: Any, value: Any) -> None:
    pushed = Root(value) if kind is Root else value
    came = trip(kind, pushed)
    assert (type(came), repr(came)) == (type(pushed), repr(pushed))


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (dict, {1: 2}, "key 1"),
        (list, [(1,)], r"field\.0 would arrive as a list, not as a tuple"),
        (tuple, (1, {2}), r"field\.1 would arrive as a list, not as a set"),
        (set, {NOW}, "would arrive"),
        (
            set,
            {Colour.RED},
            r"field has a member <Colour.RED: 'red'> that would arrive as 'red'; annotate it, as set\[Colour\]",
        ),
        (set, {Level.LOW, 5}, "has a member <Level.LOW: 1> that would arrive as 1; "),
        (set, {Reply("a")}, r"has a member 'a' that would arrive as 'a'; annotate it, as set\[Reply\]"),
        (frozenset[Any], frozenset({Colour.RED}), r"has a member .* annotate it, as frozenset\[Colour\]"),
        (set[tuple[Any, ...]], {(Colour.RED, 1)}, r"has a member \(<Colour.RED: 'red'>, 1\) that"),
        (list[set[Any]], [{1}, {Level.LOW}], r"field\.1 has a member"),
        (Row, (1, "x"), "would arrive as a Row, not as a tuple; make it a Row"),
        (Row, Row(1, Colour.RED), r"field\.1 would arrive as a str, not as a Colour"),
        (dict[str, Any], {"a": NOW}, r"field\.a would"),
        (dict[Any, int], {1: 2}, "key 1"),
        (list[Any | None], [None, (1,)], r"field\.1 would"),
        (tuple[int, Any], (1, b"x"), r"field\.1 would"),
        (tuple[Any, ...], (1, 2, b"x"), r"field\.2 would"),
        (list[int] | set[int], {1}, "as a list, not as a set"),
        (Annotated[int | str, Field(union_mode="left_to_right")], "5", "as a int, not as a str"),
        (Sequence[int], (1, 2), "as a list, not as a tuple"),
        (Iterable[Any], [(1,)], r"field\.0 would"),
        (Iterable, (n for n in range(3)), "has items of any type, which can't be compared"),
        (Mapping[str, Any], {"a": (1,)}, r"field\.a would"),
        (Forgetful, Forgetful(5), r"would arrive as Forgetful\(0\), not as Forgetful\(5\)"),
        (Tree, Tree(children=[Tree(value=(1,))]), r"field\.children\.0\.value would arrive as a list"),
        (Bag, Bag(size=1, more=(1,)), r"field\.more would arrive as a list"),  # type: ignore[call-arg]
    ],
)  # fmt: skip
def test_what_a_type_leaves_open_in_part_and_would_change_is_refused(kind: Any, value: Any, why: str) -> None:
    with pytest.raises(EncodeError, match=why):
        trip(kind, value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (str | UUID, [UUID(int=1), str(UUID(int=1))]),
        (UUID | str, [UUID(int=1), str(UUID(int=1))]),
        (bytes | str, [b"x", "x"]),
        (Colour | str, [Colour.RED, "red"]),
        (Decimal | str, [Decimal("1.5"), "1.5"]),
        (int | Literal[1, "a"] | str | date, [date(2024, 2, 29), "2024-02-29"]),
        (datetime | date | str, [NOW, "2024-02-29T12:30:00Z"]),
        (dict[int | str, int], [{1: 2}, {"1": 2}]),
        (dict[str | UUID, int], [{UUID(int=1): 2}, {str(UUID(int=1)): 2}]),
        (Path | str, [Path("/a"), "/a"]),
        (list[int] | set[int], [[1], {1}]),
        (Point | Pin, [Point(1), Pin(1)]),
        (Row | list, [Row(1, "x"), [1, "x"]]),
    ],
)
def test_what_json_writes_alike_comes_back_as_it_was_or_is_refused(kind: Any, values: list[Any]) -> None:
    refused = 0
    for value in values:
        try:
            came = trip(kind, value)
        except EncodeError as error:
            wanted = type(value).__name__
            assert re.search(rf"as a \w+, not as a {wanted}, as .*; declare {wanted} alone|key", str(error))  # noqa: PT017
            refused += 1
        else:
            assert (type(came), came) == (type(value), value)
    assert refused == 1  # which one is for pydantic to say


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (datetime, NOW),
        (UUID | None, UUID(int=1)),
        (UUID | int, UUID(int=1)),
        (UUID | int, 5),
        (int | float, 5),
        (float | int, 5),
        (int | float, 5.0),
        (int | str, "5"),
        (str | int, 5),
        (bool | str, "true"),
        (bool | int, 1),
        (str | UUID, "x"),
        (Optional[int | str], None),  # noqa: UP045
        (Union[Point, str, None], Point(1)),  # noqa: UP007
        (Point | Animal, Animal(name="x")),
        (list[Point] | Point, [Point(1), Point(2)]),
        (Annotated[Cat | Cow, Field(discriminator="kind")], Cow(milk=2)),
        (Literal["auto"] | int, 5),
        (Literal["auto"] | int, "auto"),
        (Size | str, Size.SMALL),
        (dict[int, str], {1: "a"}),
        (dict[UUID, Any], {UUID(int=1): [1]}),
        (dict[Colour, date], {Colour.RED: date(2024, 2, 29)}),
        (tuple[int, ...], (1, 2)),
        (tuple[Any, ...], (1, "a")),
        (set[UUID], {UUID(int=1)}),
        (set[Any], {"a", None, 2.5, True}),
        (frozenset, frozenset({1, "a"})),
        (set[Any], set()),
        (Row, Row(1, "x")),
        (defaultdict[str, int], defaultdict(int, a=1)),
        (Sequence[Any], [1, "a"]),
        (Iterable[int], [1]),
        (Tree, Tree(value=[1], children=[Tree(value={"a": None})])),
        (Bag, Bag(size=1, more=[1])),  # type: ignore[call-arg]
        (Fraction, Fraction(1, 3)),
        (Annotated[str, AfterValidator(str.strip)], "x"),
        (re.Pattern, re.compile("a+")),
        (Options, {"a": 1}),
    ],
)  # fmt: skip
def test_what_a_type_says_of_a_value_comes_back_so(kind: Any, value: Any) -> None:
    came = trip(kind, value)
    if kind != Iterable[int]:
        assert (type(came), came) == (type(value), value)


def test_a_type_of_the_users_own_may_do_without_an_eq() -> None:
    assert trip(Money, Money(5)).cents == 5
    assert trip(Money | None, None) is None


@pytest.mark.parametrize(
    ("kind", "value", "where"),
    [
        (Point, Point3(1), "field"),
        (Point, Pin(1), "field"),
        (Point | None, Point3(1), "field"),
        (list[Point], [Point(1), Point3(2)], r"field\.1"),
        (tuple[Point, ...], (Point(1), Point3(2)), r"field\.1"),
        (tuple[int, Point], (1, Point3(2)), r"field\.1"),
        (dict[str, list[Point]], {"a": [Point3(2)]}, r"field\.a\.0"),
        (Animal, Dog(name="x", tricks=["sit"]), "field"),
        (list[Animal], [Dog(name="x")], r"field\.0"),
        (Point | Animal, Point3(1), "field"),
    ],
)
def test_a_subclass_of_what_is_declared_is_refused_for_it_would_lose_what_it_adds(
    kind: Any, value: Any, where: str
) -> None:
    with pytest.raises(EncodeError, match=rf"Job\.{where} would arrive as a (Point|Animal), not as a "):
        trip(kind, value)


def test_what_is_pushed_itself_may_not_be_a_subclass_either() -> None:
    with pytest.raises(
        EncodeError, match=r"^Job: Point would arrive as a Point, not as a Point3; annotate it with"
    ):
        encode_parameters(JobName("Job", Point), Point3(1))


def test_a_subclass_declared_as_well_comes_back_as_what_it_was() -> None:
    assert trip(Point3 | Point, Point3(1, 2, 3)) == Point3(1, 2, 3)


def test_a_key_that_is_not_declared_is_refused_at_any_depth() -> None:
    with pytest.raises(EncodeError, match=r"Job\.field has no key 'b'"):
        trip(Options, {"a": 1, "b": 2})
    with pytest.raises(EncodeError, match=r"Job\.field\.0 has no key 'b'"):
        trip(list[Options], [{"b": 2}])


@dataclass
class Hidden:
    shown: Any
    made: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.made = (self.shown,)


class Excluding(BaseModel):
    shown: Any
    hidden: Any = Field(default=None, exclude=True)


def test_what_does_not_travel_is_not_compared() -> None:
    assert trip(Hidden, Hidden(1)) == Hidden(1)
    assert trip(Excluding, Excluding(shown=1, hidden=(1,))) == Excluding(shown=1)


@pytest.mark.parametrize(
    "kind",
    [
        int, str | None, datetime, list[int], dict[str, list[UUID]], dict[int, str], tuple[int, str], int | str,
        float | None, Literal["a", 1], Colour, Path, Decimal, set[str], Annotated[int, Field(gt=0)],
        Mapping[str, int],
    ],
)  # fmt: skip
def test_a_type_that_says_all_leaves_nothing_to_compare(kind: Any) -> None:
    found = JobName("Job", kind).round_trip
    assert (found.check, found.decodes) == (None, False)


@pytest.mark.parametrize("kind", [Point, list[Point], Point | None, dict[str, Animal], Point | str, Options])
def test_of_a_model_only_the_type_is_looked_at(kind: Any) -> None:
    found = JobName("Job", kind).round_trip
    assert found.check is not None
    assert not found.decodes


def unannotated(queue: Any) -> Any:
    def job(path, size=1): ...  # type: ignore[no-untyped-def]

    return queue.job(job)


@pytest.mark.parametrize("make", [JobQueue, sync.JobQueue])
def test_a_function_without_annotations_is_compared_as_well(make: Any) -> None:
    job = unannotated(make("memory://"))

    assert job.prepare("a", size=[1]).fields[-1] == b'{"path":"a","size":[1]}'
    with pytest.raises(EncodeError, match=r"^job\.size would arrive as a list, not as a tuple; annotate it"):
        job.prepare("a", size=(1, 2))


@dataclass
class Letter:
    job_name: ClassVar[str] = "Letter"
    to: str


@dataclass
class Registered(Letter):
    weight: int = 0


class Insured(Registered):
    """Not even a dataclass of its own."""


@dataclass
class Parcel(Letter):
    job_name: ClassVar[str] = "Parcel"
    weight: int = 0


@dataclass
class Same(Letter):
    job_name: ClassVar[str] = "Letter"
    weight: int = 0


class Mixin:
    job_name: ClassVar[str] = "Mixed"


@dataclass
class Mixed(Mixin):
    to: str = ""


@dataclass
class MixedMore(Mixed):
    weight: int = 0


class Box(BaseModel, Generic[T]):
    job_name: ClassVar[str] = "Box"
    value: T


class BigBox(Box[int]):
    size: int = 0


@pytest.mark.parametrize("make", [JobQueue, sync.JobQueue])
@pytest.mark.parametrize(
    ("job", "base"),
    [
        (Registered("joe", 5), "Letter"),
        (Insured("joe", 5), "Registered"),
        (MixedMore("joe", 5), "Mixed"),
        (BigBox(value=1), r"Box\[int\]"),
    ],
)
def test_a_subclass_that_inherits_its_job_name_is_no_job_whether_the_handler_is_known_or_not(
    make: Any, job: Any, base: str
) -> None:
    queue, kind = make("memory://"), type(job).__name__
    why = f"a {kind} would arrive as a {base}, which has that job name; .* give {kind} a job_name"
    with pytest.raises(EncodeError, match=why):
        queue.prepare(job)
    with pytest.raises(RegistrationError, match=why):
        queue.register(type(job))

    queue.register(JobName("mine", type(job)))(print)
    assert queue.prepare(job, "mine").fields[1] == "mine"


@pytest.mark.parametrize("job", [Letter("joe"), Parcel("joe", 5), Same("joe"), Mixed("joe"), Box[int](value=1)])
def test_a_type_whose_job_name_is_its_own_is_pushed_by_a_producer_without_handlers(job: Any) -> None:
    assert JobQueue("memory://").prepare(job).fields[1] == job.job_name


@dataclass
class Pair(Generic[T]):
    job_name: ClassVar[str] = "Pair"
    first: T


def test_a_dataclass_with_its_type_filled_in_keeps_its_job_name() -> None:
    kind: Any = Pair[int]
    queue = JobQueue("memory://")
    queue.register(kind)(print)
    assert list(queue.definitions) == ["Pair"]


def test_a_subclass_that_says_the_job_name_of_its_base_is_not_pushed_where_the_handler_takes_the_base() -> None:
    queue = JobQueue("memory://")
    queue.register(Letter)(print)

    with pytest.raises(EncodeError, match="a Same would arrive as a Letter, which the handler of 'Letter' takes"):
        queue.prepare(Same("joe", 5))

    queue.prepare(Letter("joe"))


def test_what_has_the_job_name_of_a_typed_dict_is_no_subclass_of_it() -> None:
    queue = JobQueue("memory://")
    queue.register(JobName("Letter", Options))(print)

    assert queue.prepare(Letter("joe")).fields[1] == "Letter"


def lazy() -> Iterator[int]:
    yield 1


def test_a_generator_is_written_where_its_items_are_typed() -> None:
    name = named(Iterable[int])
    assert encode_parameters(name, name.parameters(lazy())) == b'{"field":[1]}'


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals()
ODD = st.datetimes(timezones=st.just(UTC)) | st.uuids() | st.sampled_from([Colour.RED, Size.SMALL, Level.LOW])
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.sampled_from([Colour.RED, Level.LOW])
ANYTHING = st.recursive(
    LEAVES | ODD,
    lambda inner: (
        st.lists(inner) | st.dictionaries(KEYS, inner) | st.lists(inner).map(tuple) | st.sets(st.integers())
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(value=ANYTHING)
@pytest.mark.parametrize(
    "name", [named(kind) for kind in (Any, str | bytes | Any, list[Any] | dict[Any, Any] | tuple[Any, ...] | UUID)]
)
def test_whatever_is_pushed_comes_back_as_it_was_or_is_refused(name: JobName[Any], value: Any) -> None:
    try:
        raw = encode_parameters(name, name.parameters(value))
    except EncodeError:
        return
    assert repr(decode_parameters(name, raw).field) == repr(value)
