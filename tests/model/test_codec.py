"""The wire format: what goes in comes out, and nothing that is in there can hurt."""

import math
import typing
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, ClassVar, NotRequired
from uuid import UUID

import orjson
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field, field_validator
from store import lease_at

from redisjobs import EncodeError, JobName, Priority, State
from redisjobs.drivers.redis.wire import queued_ms_of
from redisjobs.errors import DecodeError
from redisjobs.model.codec import decode_job, encode_headers, new_job_id
from redisjobs.model.info import job_info
from redisjobs.model.job import ReturnType
from redisjobs.model.payload import MAX_PARAMETERS, decode_parameters, encode_parameters, instance, read_parameters
from redisjobs.model.queries import Row
from redisjobs.model.transitions import Lease


class Colour(StrEnum):
    RED = "red"


class Size(Enum):
    SMALL = 1


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Many:
    when: datetime
    day: date
    span: timedelta
    who: UUID
    price: Decimal
    colour: Colour
    size: Size
    where: Path
    point: Point
    points: dict[str, list[Point | None]]
    raw: bytes
    tags: set[str]
    frozen: frozenset[int]
    pair: tuple[int, str]
    row: tuple[float, ...]
    big: int = 2**100
    anything: Any = field(default_factory=lambda: {"a": [1, None, "b"]})


MANY = Many(
    when=datetime(2024, 2, 29, 23, 59, 59, 999999, UTC), day=date(2024, 2, 29), span=timedelta(microseconds=1),
    who=UUID(int=7), price=Decimal("0.10"), colour=Colour.RED, size=Size.SMALL, where=Path("/tmp/a b"),
    point=Point(0.1, -1e300), points={"a": [Point(1), None]}, raw="größe".encode(), tags={"a", "b"},
    frozen=frozenset({1}), pair=(1, "x"), row=(1.5, 2.5),
)  # fmt: skip


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    from_: str = Field(alias="from")
    inner: Point = Point(1)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def length(self) -> int:
        return len(self.from_)


class Old(typing.TypedDict):
    a: int
    b: NotRequired[str]


class Partial(typing.TypedDict, total=False):
    a: int


class New(typing_extensions.TypedDict):
    a: int
    b: typing_extensions.NotRequired[str]


class Open(typing_extensions.TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    a: int


def named(kind: Any) -> JobName[Any]:
    return JobName("Job", kind)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Many, MANY),
        (Aliased, Aliased(**{"from": "me"})),  # type: ignore[arg-type]
        (Old, {"a": 1}),
        (Old, {"a": 1, "b": "x"}),
        (Partial, {}),
        (New, {"a": 1}),
        (New, {"a": 1, "b": "x"}),
        (Open, {"a": 1, "more": [2]}),
        (Point, Point(1, 2)),
    ],
)
def test_parameters_make_the_round_trip(kind: Any, value: Any) -> None:
    raw = encode_parameters(named(kind), value)
    assert orjson.loads(raw.replace(str(2**100).encode(), b"0")) is not None  # plain JSON
    assert decode_parameters(named(kind), raw) == value


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)))
def test_any_text_and_number_make_the_round_trip(value: dict[str, Any]) -> None:
    kind: JobName[Any] = named(dict[str, int | float | str])
    assert decode_parameters(kind, encode_parameters(kind, value)) == value


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int
    text: str = ""
    ratio: float | None = None
    when: datetime | None = None
    names: list[str] = field(default_factory=list)
    point: Point | None = None
    anything: Any = None


def wrong(**values: Any) -> Any:
    return Add(**{"a": 1} | values)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        (wrong(a="5"), r"Add\.a: should be a valid integer \(got str\)"),
        (wrong(a=None), r"Add\.a: should be a valid integer \(got NoneType\)"),
        (wrong(a=5.0), r"Add\.a: should be a valid integer \(got float\)"),
        (wrong(a=Decimal(5)), r"Add\.a: should be a valid integer \(got str\)"),
        (wrong(text=5), r"Add\.text: should be a valid string \(got int\)"),
        (wrong(text=b"joe"), r"Add\.text: should be str \(got bytes\)"),
        (wrong(text=UUID(int=1)), r"Add\.text: should be str \(got UUID\)"),
        (wrong(names="joe"), r"Add\.names: should be a valid (list|array) \(got str\)"),
        (wrong(names=("a", "b")), r"Add\.names: should be list\[str\] \(got tuple\)"),
        (wrong(names=["a", 5]), r"Add\.names\.1: should be a valid string \(got int\)"),
        (wrong(when="2024-02-29T00:00:00Z"), r"Add\.when: should be .*datetime.* \(got str\)"),
        (wrong(point={"x": 1}), r"Add\.point: should be .*Point.* \(got dict\)"),
        (wrong(a="5", text=5), r"Add\.a: .*; Add\.text: "),
        ({"a": 1}, r"Add: should be Add \(got dict\)"),
        (5, r"Add: should be an object \(got int\)"),
        (
            wrong(text="\ud800"),
            r"Add: parameters can't be written: Add\.text: '\\ud800' has half of a surrogate pair",
        ),
        (wrong(anything={"\ud800": None}), r"Add\.anything, a key: '\\ud800' has half of a surrogate pair"),
        (
            wrong(anything=object()),
            "Add: parameters can't be written as Add: JSON has no form for a value of type object",
        ),
        (
            wrong(anything=[b"\xff"]),
            r"Add\.anything\.0: bytes go as text, and these are not UTF-8; push base64\.b64encode\(",
        ),
        (wrong(ratio=math.nan), r"Add\.ratio: JSON has no number nan"),
        (wrong(anything=[1, {"k": math.inf}]), r"Add\.anything\.1\.k: JSON has no number inf"),
        (wrong(anything=SecretStr("pw")), r"Add\.anything: SecretStr is written as stars"),
    ],
)
def test_parameters_that_do_not_fit_are_an_error_naming_field_and_type(parameters: Any, why: str) -> None:
    with pytest.raises(EncodeError, match=why):
        encode_parameters(JobName("Add", Add), parameters)


def test_what_a_handler_returns_and_can_not_be_written_is_to_be_returned_in_another_way() -> None:
    with pytest.raises(EncodeError, match=r"these are not UTF-8; return base64\.b64encode\("):
        encode_parameters(ReturnType("thumbnail", bytes), b"\xff")
    with pytest.raises(EncodeError, match=r"written as stars; return where the secret is kept"):
        encode_parameters(ReturnType("login", SecretStr), SecretStr("pw"))


def test_what_a_type_checker_lets_pass_does_too() -> None:
    @dataclass
    class Loose:
        number: float
        text: str
        flag: int
        items: Iterable[int]

    raw = encode_parameters(named(Loose), Loose(5, Colour.RED, True, [1, 2]))
    assert orjson.loads(raw) == {"number": 5.0, "text": "red", "flag": 1, "items": [1, 2]}


@pytest.mark.parametrize("kind", [Old, New])
def test_a_typed_dict_may_leave_out_what_is_not_required_and_nothing_else(kind: Any) -> None:
    with pytest.raises(EncodeError, match=rf"{kind.__name__}\.a: missing"):
        encode_parameters(named(kind), {"b": "x"})
    with pytest.raises(EncodeError, match=f"{kind.__name__} has no key 'bb', 'c'"):
        encode_parameters(named(kind), {"a": 1, "c": 1, "bb": 2})
    with pytest.raises(EncodeError, match=f"{kind.__name__} has no key 'aa'"):
        encode_parameters(named(kind), {"aa": 1})
    with pytest.raises(EncodeError, match=r"Open\.a: missing"):
        encode_parameters(named(Open), {"aa": 1})


def test_a_key_that_json_would_write_as_another_is_an_error_also_where_its_type_is_declared() -> None:
    name: JobName[Any] = JobName("Job", dict[str, int])
    assert encode_parameters(name, {"\ufffd": 1}) == '{"\ufffd":1}'.encode()
    with pytest.raises(EncodeError, match=r"dict, a key: '\\ud800' has half of a surrogate pair.*; leave it out"):
        encode_parameters(name, {"\ud800": 1})


def test_a_loop_in_the_parameters_is_an_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodeError, match="can't be written"):
        encode_parameters(named(Add), wrong(anything=loop))


class Picky(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def one_of_none(cls, x: int) -> int:
        return {0: 0}[x]


def test_a_validator_that_breaks_is_an_error_like_a_value_that_does_not_fit() -> None:
    with pytest.raises(EncodeError, match=r"Job: .*can't be written as Picky: 5"):
        encode_parameters(named(Picky), Picky.model_construct(x=5))
    with pytest.raises(DecodeError, match="Job: KeyError: 5"):
        decode_parameters(named(Picky), b'{"x":5}')


@pytest.mark.parametrize("limit", [100, MAX_PARAMETERS])
@pytest.mark.parametrize(("off", "fits"), [(-1, True), (0, True), (1, False)])
def test_parameters_may_take_as_many_bytes_as_the_limit_says(limit: int, off: int, fits: bool) -> None:
    value = {"a": "ü" * ((limit - 12) // 2)}
    value["a"] += "x" * (limit + off - len(encode_parameters(named(dict[str, str]), value, limit)))
    if fits:
        assert len(encode_parameters(named(dict[str, str]), value, limit)) == limit + off
    else:
        with pytest.raises(EncodeError, match=rf"take {limit + 1:,} bytes of JSON, the limit is {limit:,}"):
            encode_parameters(named(dict[str, str]), value, limit)


def test_decoding_is_lax_for_what_was_put_in_with_redis_cli() -> None:
    decoded = decode_parameters(named(Add), b'{"a":"5","when":1700000000,"new":1}')
    assert decoded == Add(5, when=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC))


class Roomy(BaseModel):
    model_config = ConfigDict(extra="allow")
    size: int = 0


class Order(BaseModel):
    count: int = Field(alias="n")
    bag: Roomy | None = None
    bags: list[Roomy] = []
    point: Point | None = None


class Options(typing_extensions.TypedDict):
    n: typing_extensions.NotRequired[int]
    order: typing_extensions.NotRequired[Order]


@pytest.mark.parametrize(
    ("kind", "raw", "unknown"),
    [
        (Point, b'{"x": 1, "z": 2}', "Point has no key 'z'"),
        (Order, b'{"n": 1, "z": 2}', "Order has no key 'z'"),
        (Order, b'{"n": 1, "count": 2}', "Order has no key 'count'"),
        (Order, b'{"n": 1, "point": {"x": 1, "z": 2}}', r"Order\.point has no key 'z'"),
        (Options, b'{"z": 2, "y": 3}', "Options has no key 'z'; Options has no key 'y'"),
        (Options, b'{"order": {"n": 1, "z": 2}}', r"Options\.order has no key 'z'"),
    ],
)
def test_what_is_typed_has_no_key_that_its_type_lacks(kind: Any, raw: bytes, unknown: str) -> None:
    name = JobName("Job", kind)
    decode_parameters(name, raw)  # a worker is as lax as can be
    with pytest.raises(DecodeError, match=f"^Job: {unknown}$"):
        read_parameters(name, raw)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (Roomy, b'{"more": 2}'),
        (Order, b'{"n": "1", "bag": {"more": 2}, "bags": [{"more": 1}, {"most": 2}]}'),
        (Options, b'{"order": {"n": 1, "bag": {"more": 2}}}'),
        (dict[str, int], b'{"more": 2}'),
        (Point, b'{"x": "1.5"}'),
    ],
)
def test_what_is_typed_may_have_any_key_that_its_type_allows(kind: Any, raw: bytes) -> None:
    name = JobName("Job", kind)
    assert read_parameters(name, raw) == decode_parameters(name, raw)


def test_what_is_given_as_a_dict_may_have_any_key_that_its_type_allows() -> None:
    name = JobName("Job", Order)
    made = instance(name, {"n": 1, "bag": {"more": 2}})
    assert encode_parameters(name, made) == b'{"n":1,"bag":{"size":0,"more":2},"bags":[],"point":null}'
    with pytest.raises(EncodeError, match=r"^Job: Order has no key 'z'$"):
        instance(name, {"n": 1, "z": 2, "bag": {"more": 2}})


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "Add"),
        (b"null", r"Add: should be an object \(got NoneType\)"),
        (b"[]", r"Add: should be an object \(got list\)"),
        (b'{"a":1', "is not JSON: EOF"),
        (b'{"a":"x"}', r"Add\.a: should be a valid integer.* \(got str\)"),
        (b"{}", r"Add\.a: missing"),
        (b'{"a":1,"text":"\xff"}', "is not JSON: invalid unicode code point"),
        (b'{"a":1,"text":"\\ud800"}', "is not JSON: "),
        (b'{"a":' + b"9" * 5000 + b"}", "Add"),
        (b'{"a":1,"anything":' + b"[" * 100_000, "is not JSON: recursion limit"),
        (b'{"a":1,"anything":' + b"[" * 150 + b"]" * 150 + b',"text":5}', r"Add\.text: "),
    ],
)
def test_bytes_that_do_not_decode_are_an_error_that_says_why(raw: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode_parameters(named(Add), raw)


def test_an_error_names_five_faults_at_most() -> None:
    kind = named(dict[str, int])
    with pytest.raises(DecodeError, match=r"^Job: (dict\.\d: [^;]*; ){5}and 15 more$"):
        decode_parameters(kind, orjson.dumps({str(n): "x" for n in range(20)}))


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "x", "y", "text", "point"]), inner),
)


@pytest.mark.parametrize("kind", [Add, Many, Aliased, Old, Picky])
@given(raw=st.binary() | JSONISH.map(orjson.dumps))
def test_whatever_the_bytes_decoding_raises_nothing_but_decode_error(kind: Any, raw: bytes) -> None:
    with suppress(DecodeError):
        decode_parameters(named(kind), raw)


# Entries


def lease(fields: dict[bytes, bytes], entry: str = "1700000000000-0") -> Lease:
    return lease_at(2, entry, 1, "j", fields)


GOOD = {b"name": b"Add", b"parameters": b"{}"}


def test_an_entry_put_in_with_redis_cli_is_a_job_of_its_first_attempt_queued_when_it_was_added() -> None:
    job = decode_job(lease(GOOD))
    assert (job.name, job.parameters, job.attempt, job.queued_ms) == ("Add", b"{}", 1, 1_700_000_000_000)
    assert (job.expires_ms, job.unknown_ms, job.next_scheduled_ms, job.read_headers()) == (None, None, None, {})


def test_all_fields_of_an_entry_are_read() -> None:
    more = {b"attempt": b"3", b"queued_at": b"5", b"expires_at": b"6", b"unknown_since": b"7", b"started_at": b"9"}
    job = decode_job(lease(GOOD | more | {b"next_scheduled_at": b"8", b"headers": b'{"a":"b"}'}))
    assert (job.attempt, job.queued_ms, job.expires_ms, job.unknown_ms, job.next_scheduled_ms) == (3, 5, 6, 7, 8)
    assert job.started_ms == 9
    assert job.read_headers() == {"a": "b"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "no field 'name'; its fields: none"),
        ({b"nom\xff": b"x"}, "no field 'name'; its fields: nom\N{REPLACEMENT CHARACTER}"),
        ({b"name": b"Add"}, "no field 'parameters'; its fields: name"),
        (GOOD | {b"%d" % n: b"" for n in range(63)}, "the entry has 65 fields"),
        (GOOD | {b"attempt": b"two"}, "field 'attempt' is b'two', not a whole number"),
        (GOOD | {b"attempt": b"-1"}, "field 'attempt'"),
        (GOOD | {b"queued_at": b""}, "field 'queued_at'"),
        (GOOD | {b"queued_at": b"9" * 15}, "field 'queued_at'"),
        (GOOD | {b"started_at": b"soon"}, "field 'started_at'"),
        (GOOD | {b"expires_at": b"1" + b"0" * 5000}, "field 'expires_at'"),
        (GOOD | {b"next_scheduled_at": b"253402300800000"}, "field 'next_scheduled_at'"),
        (GOOD | {b"unknown_since": "²".encode()}, "field 'unknown_since'"),
    ],
)
def test_an_entry_that_is_no_job_is_an_error_that_says_why(fields: dict[bytes, bytes], why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode_job(lease(fields))


@pytest.mark.parametrize(
    ("raw", "headers"),
    [(b"{", {}), (b"[1]", {}), (b"\xff", {}), (b"[" * 9999, {}), (b'{"a":1,"b":null}', {"a": "1", "b": "None"})],
)
def test_headers_that_cannot_be_read_are_never_worth_a_job(raw: bytes, headers: dict[str, str]) -> None:
    assert decode_job(lease(GOOD | {b"headers": raw})).read_headers() == headers


@pytest.mark.parametrize("depth", [1, 200, 990, 1000, 1022, 1023, 5000])
@pytest.mark.parametrize("field", [b"headers", b"parameters", b"error"])
def test_a_value_may_be_nested_however_deep(field: bytes, depth: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = b'{"k":"v","deep":' + opening * depth + b"1" + closing * depth + b"}"
        fields = GOOD | {field: deep}

        info = job_info(Row("j", State.READY, Priority.LOW, "1-0", 1, None, "", 0, False, fields))

        if field == b"headers":
            readable = {"k": "v"} if depth <= 1023 else {}  # what else is no JSON to orjson
            assert (info.headers or {}, decode_job(lease(fields)).read_headers()) == (readable, readable)


@pytest.mark.parametrize(
    "headers", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}, {"a": "\ud800"}, [("a", "b")], "ab"]
)
def test_headers_are_strings_to_strings(headers: Any) -> None:
    with pytest.raises(EncodeError, match="headers"):
        encode_headers(headers)


def test_headers_are_readable_json() -> None:
    assert encode_headers({"trace": "größe"}) == '{"trace":"größe"}'.encode()


KNOWN = "id name parameters attempt queued_at expires_at headers unique error reason traceback failed_at worker"
FIELDS = st.dictionaries(
    st.sampled_from([*KNOWN.encode().split(), b"deliveries", b"unknown_since"]) | st.binary(),
    st.binary() | st.integers().map(lambda n: b"%d" % n) | st.just(b"9" * 15) | JSONISH.map(orjson.dumps),
)
ENTRIES = st.builds("{}-{}".format, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(fields=FIELDS, entry=ENTRIES)
def test_whatever_is_in_an_entry_reading_it_raises_nothing_but_decode_error(
    fields: dict[bytes, bytes], entry: str
) -> None:
    try:
        job = decode_job(lease(fields, entry))
    except DecodeError:
        return
    assert isinstance(job.read_headers(), dict)
    for ms in (job.queued_ms, job.expires_ms, job.next_scheduled_ms):
        assert datetime.fromtimestamp((ms or 0) / 1000, UTC)  # as the context does for the handler


@given(
    fields=FIELDS, entry=ENTRIES | st.just(""), state=st.sampled_from(State), due=st.none() | st.integers(),
    deliveries=st.integers(0, 2**63),
)  # fmt: skip
def test_whatever_is_in_an_entry_it_can_be_looked_at(
    fields: dict[bytes, bytes], entry: str, state: State, due: int | None, deliveries: int
) -> None:
    info = job_info(
        Row(entry, state, Priority.LOW, entry, queued_ms_of(entry), due, "w", deliveries, False, fields)
    )
    assert info.state is state
    assert info.job_id or not entry
    at = info.wakes_at if state is State.SUSPENDED else info.due_at
    assert (at is None) == (due is None)


def test_a_dead_letter_is_told_in_full() -> None:
    fields = GOOD | {
        b"id": b"j", b"queued_at": b"1700000000000", b"failed_at": b"1700000060000", b"attempt": b"4",
        b"deliveries": b"2", b"worker": b"w", b"reason": b"failed", b"error": b"E: x", b"traceback": b"T",
        b"error_type": b"shop.E", b"fingerprint": b"0123456789ab",
    }  # fmt: skip
    info = job_info(
        Row("j", State.DEAD, Priority.HIGH, "1700000060000-0", 1700000060000, None, "", 0, False, fields)
    )
    assert (info.job_id, info.name, info.parameters, info.attempt, info.deliveries) == ("j", "Add", "{}", 4, 2)
    assert (info.worker, info.reason, info.error, info.traceback) == ("w", "failed", "E: x", "T")
    assert (info.error_type, info.fingerprint) == ("shop.E", "0123456789ab")
    assert info.failed_at == datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)
    assert info.queued_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_new_job_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_job_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(len(job_id) == 18 for job_id in ids)
    assert sorted(job_id[:7] for job_id in ids) == [job_id[:7] for job_id in ids]
