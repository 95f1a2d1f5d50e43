"""The scripts: their headers tell the truth, and they stand what a server can do to them."""

import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot
from store import Heart, RedisStore, happened, restore, take_over
from strict_scripts import strict

from conftest import ENGINES, Servers
from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.locator import slot_of
from redisjobs.drivers.redis.long_calls import begin_tidying
from redisjobs.drivers.redis.pushes import PushCommands
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.errors import DriverError, QueueFull
from redisjobs.local import server
from redisjobs.model.changes import Cancel, Delete, Ending, Requeue, Tidy
from redisjobs.model.driver import Consumer, Fenced
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.stored import THERE_MS
from redisjobs.model.times import LONGEST_TRY, REMEMBERED_MS, REPEATABLE, YOUNG_MS
from redisjobs.model.transitions import (
    Ack,
    After,
    DeadLetter,
    Exchange,
    Lease,
    NewJob,
    Pushed,
    Release,
    Reply,
    RetryLater,
    Settlement,
    Turn,
)
from redisjobs.queue import JobQueue
from redisjobs.worker.worker import Worker
from redisjobs_proof.contract.acts import rows_of

LUA = Path(__file__).parents[2] / "lua"
SCRIPTS = sorted(path.stem for path in LUA.glob("*.lua"))
INCLUDES = sorted(path.stem for path in LUA.glob("include/*.lua"))
TABLES = {"streams", "stream_of"}  # includes that are no functions
NUMBERS = {"times"}  # and that name numbers
REFUSED = {
    "push",
    "push_plain",
    "push_one",
    "fire",
    "record",
    "import",
    "signal",
}  # what may be refused when the server is full
READERS = frozenset(
    (
        "find counts schedules backlog scan groups pauses limits workers statistics ahead relayed taken steps "
        "find_children chunks"
    ).split()
)
FAILED = DeadLetter("failed", "ValueError: no")


# The header is the contract


def header(name: str) -> str:
    lines = (LUA / f"{name}.lua").read_text("utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if number and not line.startswith("-- "[: len(line)]))
    return "\n".join(lines[1:end])


def without_comments(source: str) -> str:
    return re.sub(r"--[^\n]*", "", source)


@cache
def body(name: str) -> str:
    """A script's own code, without its includes."""
    return without_comments((LUA / f"{name}.lua").read_text("utf-8"))


@cache
def include(name: str) -> str:
    return without_comments((LUA / "include" / f"{name}.lua").read_text("utf-8"))


@cache
def included(name: str) -> list[str]:
    """What a script, or `include/<name>`, includes by itself."""
    text = (LUA / f"{name}.lua").read_text("utf-8")
    return [one for line in re.findall(r"^ *--- @include (.+)$", text, re.MULTILINE) for one in line.split()]


@cache
def needed(name: str) -> set[str]:
    """All that it includes, also by its includes."""
    return {name for one in included(name) for name in {one, *needed(f"include/{one}")}}


def calls(source: str, begin: str = r"redis\.p?call\(") -> list[str]:
    """Each `redis.call(...)` and `redis.pcall(...)`, or what else begins so, with its arguments."""
    found = []
    code = re.sub(r"'[^']*'", lambda text: "'" * len(text[0]), source)
    for start in re.finditer(begin, code):
        depth, end = 1, start.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        found.append(source[start.start() : end])
    return found


def keys(source: str) -> list[str]:
    """The keys that a source names, as they follow `redisjobs:{queue}:`."""
    return [plain or quoted for plain, quoted in re.findall(r"\bKEYS(?:\.(\w+)|\['([\w:]+)'\])", source)]


def key_map() -> dict[str, str]:
    """The type of each key, or of all that begin so, as the table of lua/README.md has it."""
    table = (LUA / "README.md").read_text("utf-8").split("## The keys")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (?:pub/sub )?(\w+)", table, re.MULTILINE)
    return {key.partition("<")[0]: kind for keys, kind in rows for key in re.findall(r"`([^`]+)`", keys)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_first_line_says_what_the_script_may_do(name: str) -> None:
    first = (LUA / f"{name}.lua").read_text("utf-8").splitlines()[0]
    wanted = {*(["allow-oom"] if name not in REFUSED else []), *(["no-writes"] if name in READERS else [])}
    assert re.fullmatch(r"#!lua( flags=[a-z,-]+)?", first)
    assert set(re.findall(r"[a-z]+-[a-z]+", first)) == wanted


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_begins_with_the_name_and_the_purpose(name: str) -> None:
    assert re.match(rf"-- {name}: \w[^\n]+", header(name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_declares_the_keys_that_it_and_its_includes_name_and_no_others(name: str) -> None:
    named = keys(body(name)) + [key for one in needed(name) for key in keys(include(one))]
    script = scripts.script(name)

    assert sorted(script.keys) == sorted(set(named))
    assert set(re.findall(r"\bKEYS\S", without_comments(script.source))) <= {"KEYS["}
    assert {int(n) for n in re.findall(r"\bKEYS\[(.+?)\]", without_comments(script.source))} == {
        *range(1, len(script.keys) + 1)
    }


@pytest.mark.parametrize("source", [*map(body, SCRIPTS), *map(include, INCLUDES)], ids=[*SCRIPTS, *INCLUDES])
def test_a_key_has_a_name_that_is_in_the_key_map_and_no_number(source: str) -> None:
    assert source.count("KEYS") == len(keys(source))
    assert {*keys(source)} <= {*key_map(), "ready:"}  # as push_one names the three streams


@pytest.mark.parametrize("source", [*map(body, SCRIPTS), *map(include, INCLUDES)], ids=[*SCRIPTS, *INCLUDES])
def test_only_a_declared_name_that_ends_with_a_colon_is_composed_with_more(source: str) -> None:
    composed = re.findall(r"\bKEYS(?:\.(\w+)|\['([\w:]+)'\])\s*\.\.(?! ' has no entry ids left')", source)
    assert [plain or quoted for plain, quoted in composed if not quoted.endswith(":")] == []
    assert not re.search(r"'redisjobs:|[{}]'\s*\.\.|\.\.\s*'[{}]", source)  # no key begins with anything else


@pytest.mark.parametrize("queue", ["emails", "a:b", "ü"])
def test_all_keys_and_channels_that_a_script_declares_are_in_the_slot_of_the_queue(queue: str) -> None:
    commands = PushCommands(queue, database=3)
    for name in SCRIPTS:
        declared = [str(key) for key in commands.run(name, []).wire[3:]]
        assert {key_slot(key.encode()) for key in declared} == {slot_of(queue)}
        for channel in ("control", "waiter:"):
            if channel in scripts.script(name).keys:
                assert commands.channel("p" if channel == "waiter:" else "").removesuffix("p") in declared


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["redisjobs:{other}:jobs", "redisjobs:{q}:jobs:more", "jobs"])
async def test_a_strict_script_refuses_what_it_has_not_declared(redis_store: RedisStore, name: str) -> None:
    source = f"#!lua\nlocal _ = KEYS.jobs\nreturn redis.call('EXISTS', KEYS['group:'] .. 'a', '{name}')"
    script = strict(scripts._with_numbers("act", source))
    assert script.keys == ("jobs", "group:")
    declared = [f"redisjobs:{{q}}:{key}" for key in script.keys]
    with pytest.raises(redis.ResponseError, match=f"undeclared: EXISTS {name}"):
        redis_store.admin.eval(script.source, 2, *declared)
    there = script.source.replace(name, "redisjobs:{q}:jobs")
    assert redis_store.admin.eval(there, 2, *declared) == 0


@pytest.mark.parametrize("source", [*map(body, SCRIPTS), *map(include, INCLUDES)], ids=[*SCRIPTS, *INCLUDES])
def test_a_key_is_expected_to_be_of_the_type_that_the_key_map_says(source: str) -> None:
    for call in calls(source, r"\bexpect\("):
        kind = re.search(r"'(\w+)'", call)
        assert kind is None or {key_map().get(key, "stream") for key in keys(call)} <= {kind[1]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_names_the_arguments_that_the_body_reads(name: str) -> None:
    said = re.findall(r"^-- ARGV\[(\d+)(\.\.)?\]", header(name), re.M)
    fixed, rest = [int(n) for n, more in said if not more], [int(n) for n, more in said if more]

    assert [int(n) for n, _ in said] == list(range(1, len(said) + 1))
    assert sorted(set(map(int, re.findall(r"ARGV\[(\d+)\]", body(name))))) == fixed
    assert list(map(int, re.findall(r"local first_\w+ = (\d+)", body(name)))) == rest
    assert ("#ARGV" in body(name)) == bool(rest)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if "for each job:" in header(name).split("Returns")[0]])
def test_the_header_names_as_many_values_of_a_job_as_the_body_reads(name: str) -> None:
    said = header(name).split("Returns")[0].split("for each job:")[1]
    values = re.sub(r"\([^)]*\)|--", " ", said).split(",")
    fixed = [value for value in values if value.split()[0] != "then"]

    reads = r"(?:ARGV|arguments)\[at(?: \+ (\d+))?\]"
    code = body(name) + "".join(map(include, {"add_job", "pusher"} & needed(name)))
    offsets = [int(n or 0) for n in re.findall(reads, code)]
    assert sorted(set(offsets)) == list(range(len(fixed)))
    strides = re.findall(r"#ARGV, (\d+) do|return at \+ (\d+) \+", code)
    assert {int(n) for stride in strides for n in stride if n} <= {len(fixed)}


def test_the_header_of_settle_names_every_settlement_and_what_it_takes_along() -> None:
    said = header("settle").split("\n-- Returns ")[0].split("by its settlement:")[1]
    parts = [part.split(":") for part in re.sub(r"\([^)]*\)|--|\n", " ", said).split("·")]
    takes = {settlement.strip(): [value.strip() for value in values.split(",")] for settlement, values in parts}
    code = dict(re.findall(r"^  settlements\.(\w+) = (.+?)(?:^  end| end$)", body("settle"), re.M | re.S))
    (end_as,) = re.findall(r"^  local function end_as(.+?)^  end", body("settle"), re.M | re.S)

    def reads(lines: str) -> int:
        if "end_as(" in lines:
            lines += str(end_as)
        unpacked: list[int] = [
            names.count(",") + 1 for names in re.findall(r"local (.+) = unpack\(one\.values\)", lines)
        ]
        return max([0, *unpacked, *map(int, re.findall(r"values\[(\d)\]", lines))])

    assert takes.keys() == code.keys()
    assert takes.pop("suspend")[-1] == "names and values of the fields to change"  # as for retry
    assert takes.pop("retry") == ["due", "names and values of the fields to change"]  # the rest of them
    assert {settlement: len(values) - (values == ["none"]) for settlement, values in takes.items()} == {
        settlement: reads(code[settlement]) for settlement in takes
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_names_every_word_that_the_body_returns(name: str) -> None:
    inside = {"cancel": "cancel_one", "settle": "follow_ups"}.get(name)  # whose words are its own
    code = body(name) + (include(inside) if inside else "")
    for call in [*calls(code), *calls(code, r"\bleases\(")]:  # Redis' own words
        code = code.replace(call, "")
    returned = set(re.findall(r"'([A-Z_]{2,}) ?'", code))
    answer = header(name).split("\n-- Returns ")[1]
    said = set(re.findall(r"^(?:-- {10}| )([A-Z_]{2,})\b", answer, re.M))

    assert returned == said
    assert said <= {*Reply, *Ending}


def numbers(name: str) -> dict[str, int]:
    """The numbers that an include names; one may be a sum of those before it."""
    values = dict[str, int]()
    for number, terms in re.findall(r"^local (\w+) = (.+)$", include(name), re.MULTILINE):
        values[number] = sum(values.get(term) or int(term) for term in re.findall(r"\w+", terms))
    return values


def uses(source: str) -> set[str]:
    """The includes that a source names: those that are tables, and those that it calls."""
    code = re.sub(r"'[^']*'", "''", source)
    found = {name for name in INCLUDES if re.search(rf"(?<![.:\w]){name}\(|\bpcall\({name}\b", code)}
    found |= {name for name in NUMBERS if set(numbers(name)) & set(re.findall(r"\w+", code))}
    return found | {name for name in TABLES if re.search(rf"(?<![.:\w]){name}\b", code)}


@pytest.mark.parametrize("name", [*SCRIPTS, *(f"include/{name}" for name in INCLUDES)])
def test_a_script_and_an_include_say_what_they_include_and_use_all_of_it(name: str) -> None:
    own = name.removeprefix("include/")
    assert sorted(included(name)) == sorted(uses(body(name)) - ({own} if own != name else set()))


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_include_is_in_a_script_once_and_before_it_is_used(name: str) -> None:
    source = without_comments(scripts.script(name).source)
    blocks = re.search(r"^ +--- @include", (LUA / f"{name}.lua").read_text("utf-8"), re.M)  # for a block each
    for helper in needed(name) - NUMBERS:
        defined = [found.end() for found in re.finditer(rf"^local (?:function )?{helper}\b", source, re.M)]
        assert len(defined) == 1 or blocks is not None
        used = [
            found.start() for found in re.finditer(rf"(?<![.:\w'])(?<!function )(?<!local ){helper}[(\[]", source)
        ]
        assert not used or used[0] > defined[0]


def test_includes_that_need_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "act.lua").write_text("#!lua\n--- @include one\n")
    (tmp_path / "include/one.lua").write_text("--- @include other\n")
    (tmp_path / "include/other.lua").write_text("--- @include one\n")
    monkeypatch.setattr(scripts, "folder", lambda: tmp_path)
    scripts.forget()
    try:
        with pytest.raises(ValueError, match="one needs other needs one"):
            scripts.script("act")
    finally:
        scripts.forget()


def test_an_include_is_born_with_its_second_user() -> None:
    users = {helper: sum(helper in needed(name) for name in SCRIPTS) for helper in INCLUDES}
    once = {
        "take_in",
        "owns",
        "owns_all",
        "follow_ups",
        "add_children",
        "emit_chunks",
    }  # parts of `claim` and `settle`, which else are too long to read
    assert {helper for helper, count in users.items() if count < 2} == once


@pytest.mark.parametrize("name", INCLUDES)
def test_an_include_is_one_local_function_that_takes_all_it_uses_but_keys(name: str) -> None:
    assert (LUA / "include" / f"{name}.lua").read_text("utf-8").startswith(f"-- {name}: ")
    assert not re.search(r"\bARGV\b", include(name))
    outermost = [line for line in include(name).splitlines() if re.match(r"\S", line)]
    if name in NUMBERS:
        assert all(re.match(r"local \w+ = [\w +]+$", line) for line in outermost)
    elif name in TABLES:
        assert outermost[0].startswith(f"local {name} = {{")
        assert outermost[1:] == []
    else:
        assert outermost[0].startswith(f"local function {name}(")
        assert outermost[1:] == ["end"]


def test_scripts_and_clients_agree_on_the_times_of_a_push_and_of_a_scheduler() -> None:
    ms = numbers("times")
    assert ms["remembered_ms"] == REMEMBERED_MS
    assert ms["kept_ms"] == YOUNG_MS
    assert ms["there_ms"] == THERE_MS
    # The last repetition arrives before what ended since the first try is forgotten.
    assert REPEATABLE * 1000 + ms["repetition_ms"] < ms["remembered_ms"]
    assert LONGEST_TRY * 1000 < ms["first_try_ms"] < ms["remembered_ms"]


WRITTEN_BY = {
    r"'XADD'": {
        "enqueue",
        "set_aside",
        "push_plain",
        "push_one",  # these two without a list for each: half the price
        "take",  # into transit
        "emit_chunks",  # to another stream
    },
    r"'XDEL'": {"remove"},
    r"'XACK'": {"remove"},
    r"'XCLAIM', \S+, 'workers', to": {"hand_back"},
    r"'HDEL', KEYS\.jobs": {
        "finish",
        "promote",
        "audit",  # these two: of jobs that were removed with redis-cli
        "take",  # of jobs that have not ended, and go elsewhere
    },
    r"'SADD'": {"remember"},
    r"'DEL', KEYS\['unique:'\]": {"free"},
    r"'HINCRBY'": {"count"},
}
"""Who alone writes what makes a job ready, hands it back or ends it: all that comes with that has one place."""


@pytest.mark.parametrize("command", WRITTEN_BY)
def test_what_makes_a_job_ready_hands_it_back_or_ends_it_is_written_in_one_place(command: str) -> None:
    sources = {name: body(name) for name in SCRIPTS} | {name: include(name) for name in INCLUDES}
    writers = {name for name, source in sources.items() if re.search(rf"redis\.p?call\({command}", source)}
    assert writers == WRITTEN_BY[command]


@pytest.mark.parametrize("source", [*map(body, SCRIPTS), *map(include, INCLUDES)], ids=[*SCRIPTS, *INCLUDES])
def test_nothing_global_is_defined(source: str) -> None:
    declared = set(re.findall(r"\w+", " ".join(re.findall(r"\blocal (?!function)([\w, ]+)", source))))
    for names in re.findall(r"\bfunction ?\w*\(([^)]*)\)|\bfor ([\w, ]+) (?:in|=)|\bfor (\w+) =", source):
        declared |= set(re.findall(r"\w+", " ".join(names)))
    assigned = re.findall(r"(?:^|\bthen |\bdo )\s*((?:\w+, )*\w+) = ", source, re.M)
    assert {name for names in assigned for name in names.split(", ")} <= declared
    assert not re.search(r"^\s*function ", source, re.M)


@pytest.mark.parametrize("source", [*map(body, SCRIPTS), *map(include, INCLUDES)], ids=[*SCRIPTS, *INCLUDES])
def test_no_script_walks_all_keys_or_flushes_them(source: str) -> None:
    commands = {match[1] for call in calls(source) if (match := re.match(r"redis\.p?call\('(\w+)'", call))}
    assert len(re.findall(r"redis\.p?call\(", source)) == len(re.findall(r"redis\.p?call\('", source))
    assert not commands & {"KEYS", "SCAN", "FLUSHALL", "FLUSHDB", "RANDOMKEY", "XTRIM"}


# What an upgrade can do


@pytest.mark.anyio
async def test_a_release_that_is_installed_in_place_of_a_running_one_does_not_reach_into_it(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.forget()
    queue = JobQueue(redis_store.url, redis_store.queue_name)

    @queue.job(name="Work")
    async def work() -> None:
        raise ValueError("so that it is retried")

    def gone() -> Path:
        raise FileNotFoundError("the scripts of that release")

    monkeypatch.setattr(scripts, "folder", gone)
    async with queue:
        job = await work.push()
        await Worker(queue).run(until_idle=True)
        assert await job.cancel() is Reply.CANCELLED


# What a server can do


@pytest.mark.anyio
async def test_a_worker_whose_release_knows_the_keys_of_another_version_refuses_the_queue_and_touches_nothing(
    redis_store: RedisStore,
) -> None:
    await push(redis_store, "a")
    redis_store.admin.hset(f"{redis_store.prefix}layout", "version", "9")
    before = {key: redis_store.admin.dump(redis_store.prefix + key) for key, _ in redis_store.keys().items()}
    queue = JobQueue(redis_store.url, redis_store.queue_name)
    queue.job(name="Work")(lambda: None)

    async with queue:
        with pytest.raises(DriverError, match="of version 9, and this release of redisjobs knows version 5"):
            await Worker(queue).run(until_idle=True)

    after = {key: redis_store.admin.dump(redis_store.prefix + key) for key, _ in redis_store.keys().items()}
    assert after == before
    await redis_store.driver.aclose()


@contextmanager
def queue_on(url: str) -> Iterator[RedisStore]:
    """A queue of its own, checked and removed at the end."""
    store = RedisStore(redis.Redis.from_url(url), url, f"test-{uuid.uuid4().hex[:12]}")
    yield store
    faults = store.faults()
    store.end()
    assert faults == []


@pytest.fixture(params=ENGINES)
def queue(request: pytest.FixtureRequest, servers: Servers) -> Iterator[RedisStore]:
    """One queue, on each server at hand."""
    with queue_on(servers.url(request.param)) as store:
        yield store


@pytest.fixture
async def worker(queue: RedisStore) -> AsyncIterator[Consumer]:
    consumer = queue.consumer("w1")
    await consumer.open()
    yield consumer
    await consumer.aclose()
    await queue.driver.aclose()


@pytest.fixture(scope="module", params=ENGINES)
def small_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of its own, of each kind, with little memory."""
    with server.start(server.inspect(ENGINES[request.param]), options=["--maxmemory", "24mb"]) as running:
        yield running.url


@pytest.fixture
async def small(small_url: str) -> AsyncIterator[tuple[RedisStore, Consumer]]:
    """A queue on it, and a worker that is not open yet."""
    with queue_on(small_url) as store:
        consumer = store.consumer("w1")
        yield store, consumer
        await consumer.aclose()
        await store.driver.aclose()


@contextmanager
def full(store: RedisStore) -> Iterator[None]:
    """The server has no memory left."""
    store.admin.config_set("maxmemory", 1)
    try:
        yield
    finally:
        store.admin.config_set("maxmemory", 24 * 1024 * 1024)


def job(job_id: str, **options: Any) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"], **options)


async def push(store: RedisStore, *job_ids: str, **options: Any) -> list[Reply]:
    jobs = [job(job_id, **options) for job_id in job_ids]
    return [pushed.reply for pushed in await store.driver.push(jobs, repeated=False)]


async def claim(consumer: Consumer, count: int = 10) -> list[Lease]:
    answer = await consumer.exchange([], count)
    if not answer.leases and answer.more:  # what there is it has only heard by that
        answer = await consumer.exchange([], count)
    return list(answer.leases)


async def claim_all(consumer: Consumer, count: int) -> list[Lease]:
    """The number of jobs: the first claims are small, as the size of jobs is not known yet."""
    leases = await claim(consumer, count)
    while len(leases) < count and (more := await claim(consumer, count - len(leases))):
        leases += more
    return leases


@pytest.mark.anyio
async def test_after_a_script_flush_everything_works(queue: RedisStore, worker: Consumer) -> None:
    def flush() -> None:
        queue.admin.script_flush()

    flush()
    assert await push(queue, *"abcde") == [Reply.OK] * 5
    flush()
    leases = await claim(worker)
    heart = Heart(worker)
    flush()
    assert heart.beat(lambda: leases, {"host": "here"}) == ()
    heart.close()
    flush()
    settlements: list[Settlement] = [Ack(), RetryLater(After(0)), Release(), FAILED, RetryLater(After(60000))]
    exchange = await worker.exchange(list(zip(leases, settlements, strict=True)), 10)
    assert exchange.replies == [Reply.OK] * 5
    flush()
    assert [lease.job_id for lease in await claim(worker)] == ["c", "b"]
    for call in (worker.recover([]), worker.reclaim(), queue.driver.change(Tidy()), queue.driver.read(Count())):
        flush()
        await call
    flush()
    assert await worker.release(refund=True, watch=False) == 2
    for change, reply in ((Requeue("d"), Reply.OK), (Cancel("d"), Reply.CANCELLED)):
        flush()
        assert await queue.driver.change(change) is reply
    flush()
    assert await queue.driver.change(Delete("d")) is Reply.NOT_FOUND
    flush()
    assert await queue.driver.read(Find("d")) is None
    flush()
    assert [row.fields[b"id"] for row in await rows_of(queue.driver, State.READY, 10)] == [b"c", b"b"]


@pytest.mark.anyio
async def test_where_the_group_is_gone_a_claim_makes_it_and_finds_the_jobs_again(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, "a", "b")
    lost, _ = await claim(worker)
    queue.admin.xgroup_destroy(queue.stream(), "workers")

    refused = await worker.exchange([(lost, RetryLater(After(0)))], None)
    found = await claim(worker)

    assert refused.replies == [Reply.LEASE_LOST]
    assert [(lease.job_id, lease.deliveries) for lease in found] == [("a", 1), ("b", 1)]
    assert (await worker.exchange([(lease, Ack()) for lease in found], None)).replies == [Reply.OK] * 2


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["claim", "settle", "wait", "recover", "reclaim", "beat", "release", "tidy"])
async def test_whatever_a_worker_asks_of_a_server_that_lost_all_it_goes_on_under_a_new_id(
    queue: RedisStore, worker: Consumer, how: str
) -> None:
    await push(queue, "a")
    (held,) = await claim(worker)
    queue.admin.delete(*(queue.prefix + key for key in list(queue.keys())))  # as by a restart without a disk
    queue.admin.script_flush()
    heart = Heart(worker)

    asked: dict[str, Callable[[], Any]] = {
        "claim": lambda: worker.exchange([], 10),
        "settle": lambda: worker.exchange([(held, Ack())], None),
        "wait": lambda: worker.wait(10, 0.01),
        "recover": lambda: worker.recover([held]),
        "reclaim": lambda: worker.reclaim(),
        "beat": lambda: anyio.to_thread.run_sync(heart.beat, lambda: [held], {}),
        "release": lambda: worker.release(refund=False, watch=True),
        "tidy": lambda: queue.driver.change(Tidy()),
    }
    with nullcontext() if how in ("release", "tidy") else pytest.raises(Fenced):
        await asked[how]()
    heart.close()

    await worker.open("w1-again")
    await push(queue, "a")
    assert [lease.job_id for lease in await claim(worker)] == ["a"]


@pytest.mark.anyio
async def test_a_settlement_is_whole_where_one_stream_has_lost_its_group(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, "a", "b", "c", "d", priority=Priority.HIGH)
    await push(queue, "lost")
    leases = await claim(worker)

    for settlement in (RetryLater(After(60000)), Release(), FAILED, Ack(cancelled=True)):
        queue.admin.xgroup_destroy(queue.stream(), "workers")
        pair = [(leases.pop(0), settlement), (leases[-1], settlement)]
        assert (await worker.exchange(pair, None)).replies == [Reply.OK, Reply.LEASE_LOST]

    totals = happened(await queue.driver.read(Count()))
    assert totals == {"pushed": 5, "cancelled": 1, "retried": 1, "released": 1, "dead": 1}
    assert [lease.job_id for lease in await claim(worker)] == ["b", "lost"]


@pytest.mark.anyio
async def test_what_is_done_is_refused_where_the_group_was_destroyed_and_runs_again(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, "a", "b")
    leases = await claim(worker)
    queue.admin.xgroup_destroy(queue.stream(), "workers")

    replies = (await worker.exchange([(lease, Ack()) for lease in leases], None)).replies

    assert replies == [Reply.LEASE_LOST] * 2
    assert happened(await queue.driver.read(Count())) == {"pushed": 2}
    assert sorted(lease.job_id for lease in await claim(worker)) == ["a", "b"]


@pytest.mark.anyio
async def test_a_lost_workers_jobs_are_taken_over_though_another_stream_has_lost_its_group(
    queue: RedisStore, worker: Consumer
) -> None:
    for priority in Priority:
        await push(queue, priority, priority=priority)
    await claim(worker)
    queue.admin.xgroup_destroy(queue.stream(), "workers")
    queue.age(60)
    heir = queue.consumer("w2")

    reclaimed = await take_over(heir)
    taken = [lease.job_id for lease in await claim(heir)]

    await heir.aclose()
    assert (list(reclaimed.fenced), reclaimed.jobs) == (["w1"], 2)
    assert taken == list(Priority)  # the new group begins with what is there


Small = tuple[RedisStore, Consumer]


@pytest.mark.anyio
async def test_a_full_server_refuses_a_push_whole_and_settles_all_the_same(small: Small) -> None:
    store, worker = small
    store.clock.advance(0)
    await worker.open()
    await push(store, *"abcdef")
    await push(store, "g", due=After(1))
    leases = await claim(worker)
    by_hand = store.put({"name": "Work", "parameters": "{}"}, Priority.LOW)
    store.clock.advance(1)
    turn = Turn(1, 1)

    with full(store):
        with pytest.raises(QueueFull, match="nothing was written"):
            await push(store, "h", "i")
        assert await store.driver.change(Cancel("f")) is Reply.CANCELLING
        kinds: list[Settlement] = [
            Ack(),
            RetryLater(After(0)),
            RetryLater(After(60000)),
            Release(),
            FAILED,
            RetryLater(After(0)),
        ]
        settlements = list(zip(leases, kinds, strict=True))
        replies = (await worker.exchange(settlements, None, turn=turn)).replies
        assert (await worker.exchange(settlements, None, turn=turn)).replies == replies
        again = await claim(worker)
        (unlocated,) = [lease for lease in again if lease.job_id == by_hand]
        assert (await worker.exchange([(unlocated, FAILED)], None)).replies == [Reply.OK]
        assert await store.driver.change(Delete(by_hand)) is Reply.OK
        assert await store.driver.change(Requeue("e")) is Reply.OK
        assert await store.driver.read(Find("h")) is None

    assert replies == [Reply.OK] * 5 + [Reply.CANCELLED]
    assert [lease.job_id for lease in again] == ["d", "b", "g", by_hand]
    counts = await store.driver.read(Count())
    assert (counts.ready[Priority.NORMAL], counts.running, counts.delayed, counts.dead) == (1, 3, 1, 0)


@pytest.mark.anyio
async def test_on_a_full_server_workers_beat_are_fenced_and_jobs_are_found_taken_over_and_handed_back(
    small: Small,
) -> None:
    store, worker = small
    heart = Heart(worker)
    await worker.open()
    await push(store, "a", "b")
    leases = await claim(worker)
    assert await store.driver.change(Cancel("b")) is Reply.CANCELLING

    with full(store):
        beaten = heart.beat(lambda: leases, {"host": "here"})
        found = await worker.recover(leases[:1])
    store.age(60)
    other = store.consumer("w2")
    with full(store):
        await other.open()
        taken_over = await take_over(other)
        with pytest.raises(Fenced):
            heart.beat(lambda: leases, {"host": "here"})
        taken = await claim(other)
        released = [await consumer.release(refund=True, watch=True) for consumer in (other, worker)]
        await store.driver.change(Tidy())

    heart.close()
    await other.aclose()
    assert [lease.job_id for lease in beaten] == [lease.job_id for lease in found] == ["b"]
    assert (list(taken_over.fenced), taken_over.jobs) == (["w1"], 2)
    assert [(lease.job_id, lease.deliveries) for lease in taken] == [("a", 2)]
    assert released == [1, 0]


@pytest.mark.anyio
async def test_a_worker_that_starts_on_a_full_server_drains_it(small: Small) -> None:
    store, worker = small
    await push(store, "a", "b")

    with full(store):
        await worker.open()
        leases = await claim(worker)
        settled = await worker.exchange([(lease, Ack()) for lease in leases], None)

    assert settled.replies == [Reply.OK] * 2


@pytest.mark.anyio
async def test_a_worker_joins_a_full_server_as_others_did_before(small: Small) -> None:
    store, worker = small
    await worker.open()
    await push(store, "a")
    later = store.consumer("w2")

    with full(store):
        try:
            await later.open()
            leases = await claim(later)
        finally:
            await later.aclose()

    assert [lease.job_id for lease in leases] == ["a"]


@pytest.mark.anyio
async def test_a_push_that_has_to_send_the_script_first_is_refused_by_a_full_server_too(small: Small) -> None:
    store, _ = small
    store.admin.script_flush()
    with full(store), pytest.raises(QueueFull):
        await push(store, "a")
    assert await push(store, "a") == [Reply.OK]


@pytest.mark.anyio
async def test_of_a_field_given_twice_with_redis_cli_the_last_counts_for_scripts_and_worker(
    queue: RedisStore, worker: Consumer
) -> None:
    twice = ["id", "a", "name", "Work", "id", "b", "unique", "one", "unique", "two"]
    queue.admin.execute_command("XADD", queue.stream(), "*", *twice)
    queue.admin.set(f"{queue.prefix}unique:two", "b")

    (lease,) = await claim(worker)
    settled = await worker.exchange([(lease, FAILED)], None)

    assert (lease.job_id, lease.unique, settled.replies) == ("b", b"two", [Reply.OK])
    assert queue.located().keys() == {"b"}
    assert not queue.admin.exists(f"{queue.prefix}unique:two")


# What dead workers leave behind


@pytest.mark.anyio
async def test_nothing_comes_after_the_largest_entry_id_and_a_look_there_finds_so(
    queue: RedisStore, worker: Consumer
) -> None:
    largest = f"{2**64 - 1}-{2**64 - 1}"
    queue.put({"name": "Work", "parameters": "{}"}, entry=largest)

    (lease,) = await claim(worker)
    assert await rows_of(queue.driver, State.READY, 10) == []
    await worker.exchange([(lease, Release())], 0)
    (ready,) = await rows_of(queue.driver, State.READY, 10)
    assert ready.key == largest

    (again,) = await claim(worker)
    assert (again.token[1], again.deliveries) == (largest, 1)
    assert await worker.recover([]) == [again]
    assert await worker.release(refund=True, watch=False) == 1
    await worker.open("w1-again")
    (last,) = await claim(worker)
    assert (await worker.exchange([(last, Ack())], 0)).replies == [Reply.OK]
    assert await rows_of(queue.driver, State.READY, 10) == []


@pytest.mark.anyio
async def test_a_beat_tells_of_the_worker_and_when_its_lease_ends(queue: RedisStore, worker: Consumer) -> None:
    queue.clock.advance(5)
    heart = Heart(worker)
    assert heart.beat(list, {"host": "here", "pid": "1"}) == ()
    heart.close()
    record = queue.admin.hgetall(f"{queue.prefix}worker:w1")
    assert record.pop(b"run")
    assert record == {b"lease_ms": b"15000", b"host": b"here", b"pid": b"1"}
    alive = queue.admin.zrange(f"{queue.prefix}workers", 0, -1, withscores=True)
    assert alive == [(b"w1", queue.clock() + 15_000)]


def tidy(queue: RedisStore, idle_ms: int = -1) -> int:
    """Run the script, as if none had run for long, and every consumer was last heard of long ago."""
    queue.admin.script_load(scripts.script("tidy").source)
    command = begin_tidying(PushCommands(queue.queue_name, queue.clock), idle_ms, 0)
    looked_at: int = queue.admin.execute_command(*command.wire)[0]
    return looked_at


def consumers(queue: RedisStore, priority: Priority = Priority.NORMAL) -> set[str]:
    return {row["name"].decode() for row in queue.admin.xinfo_consumers(queue.stream(priority), "workers")}


@pytest.mark.anyio
async def test_a_consumer_goes_only_with_nothing_pending_and_its_worker_gone(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, "a", "b", "c")
    for name in ("alive", "gone"):
        consumer = queue.consumer(name)
        (lease,) = await claim(consumer, 1)
        await consumer.exchange([(lease, Ack())], None)
        await consumer.aclose()
    queue.admin.zrem(f"{queue.prefix}workers", "gone")
    queue.admin.delete(f"{queue.prefix}worker:gone")
    (held,) = await claim(worker)

    assert tidy(queue, 60_000) == 0
    assert tidy(queue) == 2

    assert consumers(queue, Priority.HIGH) == consumers(queue) == {"alive", "w1"}
    assert (await worker.exchange([(held, Ack())], None)).replies == [Reply.OK]


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["gone:1:abcd", "line:Work"])
async def test_a_consumer_that_was_listed_with_nothing_pending_stays_with_a_job_that_it_has_got_since(
    queue: RedisStore, worker: Consumer, name: str
) -> None:
    await push(queue, "a")
    queue.admin.xreadgroup("workers", name, {queue.stream(): ">"})
    queue.admin.script_load(scripts.script("tidy").source)
    keys = [f"{queue.prefix}{key}" for key in scripts.script("tidy").keys]
    listed = (name, "0", "3600001")

    queue.admin.evalsha(scripts.script("tidy").sha, len(keys), *keys, "3600000", "0", "2 0", "", "1", *listed)

    assert [consumer for _, consumer, _ in queue.pending()] == [name]
    noted = ("lines", "Work") if name == "line:Work" else ("fenced", name)
    assert queue.admin.zscore(f"{queue.prefix}{noted[0]}", noted[1]) is not None
    queue.admin.delete(*(queue.prefix + key for key, _ in queue.keys().items()))


@pytest.mark.anyio
@pytest.mark.parametrize("lost", ["workers", "worker:w1", "both"])
async def test_jobs_of_a_dead_worker_that_the_store_has_forgotten_are_found_and_run(
    queue: RedisStore, worker: Consumer, lost: str
) -> None:
    for priority in Priority:
        await push(queue, priority, priority=priority)
    assert len(await claim(worker)) == 3
    queue.admin.delete(*(queue.prefix + key for key in (["workers", "worker:w1"] if lost == "both" else [lost])))
    tidy(queue)
    queue.age(60)
    heir = queue.consumer("w2")

    reclaimed = await take_over(heir)
    found = await claim(heir)

    await heir.aclose()
    assert [(lease.job_id, lease.deliveries) for lease in found] == [(priority, 2) for priority in Priority]
    assert list(reclaimed.fenced) == ([] if lost == "both" else ["w1"])


@pytest.mark.anyio
async def test_a_worker_that_lives_keeps_its_jobs_though_the_list_of_workers_was_removed(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, "a")
    (held,) = await claim(worker)
    queue.admin.delete(f"{queue.prefix}workers")
    heir = queue.consumer("w2")
    tidy(queue)
    assert (await take_over(heir)).jobs == 0
    await heir.aclose()

    with closing(Heart(worker)) as heart:
        heart.beat(lambda: [held], {})
    assert queue.admin.zscore(f"{queue.prefix}workers", "w1") is not None
    assert (await worker.exchange([(held, Ack())], None)).replies == [Reply.OK]


@pytest.mark.anyio
@pytest.mark.parametrize("lost", ["fenced", "worker:w1"])
async def test_what_a_fenced_worker_still_fetched_is_found_though_the_store_has_forgotten_that_it_was_fenced(
    queue: RedisStore, worker: Consumer, lost: str
) -> None:
    queue.age(60)
    heir = queue.consumer("w2")
    await take_over(heir)
    await push(queue, "late")
    assert [lease.job_id for lease in await worker.wait(1, 0.01)] == ["late"]
    queue.admin.delete(queue.prefix + lost)

    tidy(queue)
    queue.clock.advance(2)
    assert (await heir.reclaim()).jobs == 1

    assert [lease.job_id for lease in await claim(heir)] == ["late"]
    await heir.aclose()


@pytest.mark.anyio
async def test_of_a_fenced_worker_nothing_is_left_though_the_store_has_forgotten_that_it_was_fenced(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, "a")
    await claim(worker)
    queue.age(60)
    heir = queue.consumer("w2")
    await take_over(heir)
    queue.admin.delete(f"{queue.prefix}fenced")

    tidy(queue)

    await heir.aclose()
    assert "w1" not in consumers(queue)
    assert set(queue.keys()) & {"worker:w1"} == set()


@pytest.mark.anyio
async def test_jobs_whose_consumer_was_removed_run_again_and_no_others(
    queue: RedisStore, worker: Consumer
) -> None:
    """The server drops what a consumer has pending with it: such entries are never read again."""
    for priority in Priority:
        await push(queue, *(f"{priority}-{number}" for number in range(3)), priority=priority)
    other = queue.consumer("w2")
    held = [*await claim(worker, 4), *await claim(other, 1)]
    assert [lease.job_id for lease in held] == ["high-0", "high-1", "high-2", "normal-0", "normal-1"]
    for priority in Priority.HIGH, Priority.NORMAL:
        queue.admin.xgroup_delconsumer(queue.stream(priority), "workers", "w1")

    assert await restore(queue.driver) == 4
    await other.reclaim()  # which tells that something was handed back, as a notification would

    again = await claim(other, 9)
    assert [lease.job_id for lease in again] == "high-0 high-1 high-2 normal-0 normal-2 low-0 low-1 low-2".split()
    assert {lease.deliveries for lease in again} == {1}  # the others are forgotten
    assert (await worker.exchange([(held[0], Ack())], None)).replies == [Reply.LEASE_LOST]
    assert happened(await queue.driver.read(Count()))["reclaimed"] == 4
    await other.aclose()


@pytest.mark.anyio
async def test_what_is_neither_dropped_nor_lost_is_left_as_it_is(queue: RedisStore, worker: Consumer) -> None:
    other = queue.consumer("w2")
    await push(queue, *"abcdef")
    held = await claim(worker, 3)
    queue.admin.xdel(queue.stream(), held[0].token[1])  # removed with redis-cli
    assert await queue.driver.change(Cancel("e")) is Reply.CANCELLED  # now the server has lost count

    assert await restore(queue.driver) == 0

    assert [lease.job_id for lease in await claim(other, 9)] == ["d", "f"]
    assert (await worker.exchange([(lease, Ack()) for lease in held[1:]], None)).replies == [Reply.OK] * 2
    queue.admin.hdel(f"{queue.prefix}jobs", "a")
    await other.aclose()


@pytest.mark.anyio
async def test_a_job_that_no_one_would_be_given_is_found_whatever_else_waits_and_though_no_locator_names_it(
    queue: RedisStore, worker: Consumer
) -> None:
    queue.put({"id": "external", "name": "Work"})
    await push(queue, *(f"job-{number}" for number in range(40)))
    queue.admin.xreadgroup("workers", "gone", {queue.stream(): ">"}, count=3)
    queue.admin.xgroup_delconsumer(queue.stream(), "workers", "gone")
    queue.admin.hdel(f"{queue.prefix}jobs", "job-1")
    assert await queue.driver.change(Cancel("job-30")) is Reply.CANCELLED  # the server loses count

    assert await restore(queue.driver) == 3

    assert [lease.job_id for lease in await claim(worker, 4)] == ["external", "job-0", "job-1", "job-2"]
    queue.admin.delete(queue.stream(), f"{queue.prefix}jobs")


@pytest.mark.anyio
async def test_however_much_was_delivered_it_is_looked_through_in_steps(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, *(f"job-{number}" for number in range(1000)))
    for number in range(3):
        queue.put({"id": f"large-{number}", "name": "Work", "parameters": "x" * 1_500_000})
        await push(queue, *(f"after-{number}-{other}" for other in range(9)))
    queue.admin.xreadgroup("workers", "gone", {queue.stream(): ">"}, count=2000)
    queue.admin.xgroup_delconsumer(queue.stream(), "workers", "gone")

    steps, after = list[tuple[int, bool]](), ""
    for _ in range(8):
        tidied = await queue.driver.change(Tidy(after))
        after = tidied.after
        steps.append((tidied.restored, bool(after)))

    assert steps == [
        (0, True),
        (500, True),
        (500, True),
        (1, True),  # one first, as it is not known how large they are; then up to ten at once
        (11, True),
        (11, True),
        (7, True),
        (0, False),
    ]
    queue.admin.delete(queue.stream(), f"{queue.prefix}jobs")


@pytest.mark.anyio
async def test_a_job_that_was_skipped_with_redis_cli_is_no_dead_letter_however_few_deliveries_are_allowed(
    queue: RedisStore,
) -> None:
    worker = queue.consumer("w1", max_deliveries=1)
    await worker.open()
    await push(queue, "a", "b")
    queue.admin.xgroup_setid(queue.stream(), "workers", "$")

    assert await restore(queue.driver) == 2

    assert [(lease.job_id, lease.deliveries) for lease in await claim(worker, 9)] == [("a", 1), ("b", 1)]
    queue.admin.delete(queue.stream(), f"{queue.prefix}jobs")
    await worker.aclose()
    await queue.driver.aclose()


@pytest.mark.anyio
async def test_the_largest_entry_id_there_is_ends_the_look_at_what_was_delivered(
    queue: RedisStore, worker: Consumer
) -> None:
    for number in range(9):
        queue.put({"id": f"job-{number}", "name": "Work"})
    queue.put({"id": "last", "name": "Work"}, entry="18446744073709551615-18446744073709551615")
    queue.admin.xreadgroup("workers", "gone", {queue.stream(): ">"})
    queue.admin.xgroup_delconsumer(queue.stream(), "workers", "gone")

    assert await restore(queue.driver) == 10

    queue.admin.delete(queue.stream(), f"{queue.prefix}jobs")


@pytest.mark.anyio
async def test_of_large_jobs_that_have_to_run_alone_a_busy_worker_reads_no_more_at_once_than_of_others(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, "held")
    held = await claim(worker)
    for number in range(20):
        queue.put({"id": f"large-{number}", "name": "Work", "parameters": "x" * 200_000})
        entry = queue.located()[f"large-{number}"].split()[1]
        queue.admin.xreadgroup("workers", "gone", {queue.stream(): ">"})
        queue.admin.xclaim(queue.stream(), "workers", "released", 0, [entry], retrycount=2, justid=True)
    await push(queue, "behind")
    await worker.reclaim()  # it hears that some were handed back
    reads, answer = list[int](), Exchange(more=True)

    while answer.more and not answer.leases:
        queue.admin.config_resetstat()
        answer = await worker.exchange([], 9)
        reads.append(queue.admin.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"])

    assert [lease.job_id for lease in answer.leases] == ["behind"]
    assert answer.waits is not None
    assert max(reads) < 10  # about 1 MiB
    assert sum(reads) <= 20 + len(reads)  # each once
    assert (await worker.exchange([(held[0], Ack()), (answer.leases[0], Ack())], None)).replies == [Reply.OK] * 2
    await worker.reclaim()
    assert [lease.job_id for lease in (await worker.exchange([], 9, idle=True)).leases] == ["large-0"]
    queue.admin.delete(queue.stream(), f"{queue.prefix}jobs")


@pytest.mark.anyio
async def test_all_consumers_are_looked_at_once_a_minute_however_many_workers_ask(
    queue: RedisStore, worker: Consumer
) -> None:
    queue.clock.advance(0)
    other = queue.consumer("w2")
    await queue.driver.change(Tidy())
    queue.admin.xgroup_createconsumer(queue.stream(), "workers", "idler")
    entry = queue.add_entry({"id": "a", "name": "Work"})
    queue.admin.xclaim(queue.stream(), "workers", "idler", 0, [entry], force=True, justid=True)

    await queue.driver.change(Tidy())
    assert queue.admin.zcard(f"{queue.prefix}fenced") == 0

    queue.clock.advance(60)
    await queue.driver.change(Tidy())
    assert queue.admin.zrange(f"{queue.prefix}fenced", 0, -1) == [b"idler"]
    queue.clock.advance(-3600)  # the clock is set back
    await take_over(other)
    await other.aclose()


@pytest.mark.anyio
async def test_a_fenced_workers_consumer_goes_when_no_late_read_can_fetch_any_more(
    queue: RedisStore, worker: Consumer
) -> None:
    queue.clock.advance(0)
    heir = queue.consumer("w2", lease=600)
    await push(queue, "a")
    await claim(worker)
    queue.clock.advance(16)
    await take_over(heir)

    await push(queue, "late")
    assert [lease.job_id for lease in await worker.wait(1, 0.01)] == ["late"]  # frozen before, and served now
    queue.clock.advance(2)
    late = await heir.reclaim()
    assert (late.silent, late.fenced, late.jobs) == ([], [], 1)
    for seconds in (18, 4):  # empty for a lease and the longest block, since the last that it fetched
        assert "w1" in consumers(queue)
        queue.clock.advance(seconds)
        await take_over(heir)

    await heir.aclose()
    assert "w1" not in consumers(queue)
    assert queue.keys().keys() & {"fenced", "worker:w1"} == set()


# Bytes


@pytest.fixture(scope="module")
def journey(redis_url: str) -> Iterator[Callable[[NewJob], list[Lease]]]:
    """Takes a job through every place that holds one; its lease at each stop."""
    with anyio.from_thread.start_blocking_portal() as portal, queue_on(redis_url) as store:
        worker = store.consumer("w1")
        portal.call(worker.open)

        async def travel(new: NewJob) -> list[Lease]:
            store.clock.advance(100)  # an id may come twice
            assert await store.driver.push([new], repeated=False) == [Pushed(Reply.OK)]
            stops = []
            for settlement in (RetryLater(After(5000)), RetryLater(After(0)), Release(), FAILED, Ack()):
                store.clock.advance(10)
                (lease,) = await claim(worker)
                stops.append(lease)
                assert (await worker.exchange([(lease, settlement)], None)).replies == [Reply.OK]
                if settlement is FAILED:
                    assert await store.driver.change(Requeue(new.job_id)) is Reply.OK
            return stops

        yield lambda new: portal.call(travel, new)
        portal.call(worker.aclose)
        portal.call(store.driver.aclose)


TELLING = [
    b"18446744073709551616",
    b"[]",
    b'{"a":[],"n":1e400}',
    b"1.0",
    b"\x00",
    b"\xff\xfe",
    b'\\"/\x7f',
    b"",
    b"-",
]


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parameters=st.one_of(st.sampled_from(TELLING), st.binary(max_size=2000)),
    headers=st.one_of(st.binary(max_size=200), st.text(max_size=200)),
    name=st.text(min_size=1, max_size=50),
    job_id=st.text(min_size=1, max_size=50),
)
def test_what_is_pushed_comes_out_byte_for_byte_wherever_it_has_been(
    journey: Callable[[NewJob], list[Lease]], parameters: bytes, headers: str | bytes, name: str, job_id: str
) -> None:
    fields: list[str | bytes] = ["name", name, "parameters", parameters, "headers", headers]

    stops = journey(NewJob(job_id, fields, due=After(1000)))

    raw = [part.encode() if isinstance(part, str) else part for part in fields]
    wanted = dict(zip(raw[::2], raw[1::2], strict=True))
    for lease in stops:
        assert lease.job_id == job_id
        assert {key: value for key, value in lease.fields.items() if key in wanted} == wanted


# Bounds


@pytest.mark.anyio
async def test_no_call_promotes_more_than_a_hundred_and_none_is_forgotten(
    queue: RedisStore, worker: Consumer
) -> None:
    await push(queue, *(f"{n:04}" for n in range(250)), due=After(1000))
    queue.clock.advance(2)

    waiting = list[int]()
    while not waiting or waiting[-1]:
        exchange = await worker.exchange([], 0)
        waiting.append((await queue.driver.read(Count())).delayed)
        assert exchange.due_in == (0 if waiting[-1] else None)

    assert waiting == [150, 50, 0]
    assert [lease.job_id for lease in await claim_all(worker, 250)] == [f"{n:04}" for n in range(250)]


@pytest.mark.anyio
async def test_of_large_jobs_a_call_promotes_a_megabyte_and_none_is_forgotten(
    queue: RedisStore, worker: Consumer
) -> None:
    fields = ["name", "Work", "parameters", "x" * 300_000]
    await queue.driver.push([NewJob(str(n), fields, due=After(1000)) for n in range(10)], repeated=False)
    queue.clock.advance(2)

    waiting = list[int]()
    while not waiting or waiting[-1]:
        exchange = await worker.exchange([], 0)
        waiting.append((await queue.driver.read(Count())).delayed)
        assert exchange.due_in == (0 if waiting[-1] else None)

    assert waiting == [6, 2, 0]


@pytest.mark.anyio
async def test_no_claim_looks_at_more_than_five_hundred_that_were_handed_back_and_none_is_forgotten(
    queue: RedisStore, worker: Consumer
) -> None:
    for start in (0, 300):
        await push(queue, *map(str, range(start, start + 300)))
    for lease in await claim_all(worker, 600):
        assert await queue.driver.change(Cancel(lease.job_id)) is Reply.CANCELLING
    assert await worker.release(refund=True, watch=False) == 600

    await worker.open("w1-again")
    ended = []
    for more in (True, False):
        answer = await worker.exchange([], 10)
        assert (answer.leases, answer.more) == ([], more)
        ended.append((await queue.driver.read(Count())).totals["cancelled"])

    assert ended == [500, 600]


@pytest.mark.anyio
@pytest.mark.parametrize("refund", [True, False])
async def test_no_call_hands_back_more_than_five_hundred_and_none_is_forgotten(
    queue: RedisStore, worker: Consumer, refund: bool
) -> None:
    for start in (0, 300):
        priority = Priority.LOW if start else Priority.NORMAL
        await push(queue, *map(str, range(start, start + 300)), priority=priority)
    assert len(await claim_all(worker, 600)) == 600
    command = WorkerCommands(queue.queue_name).release("w1", refund=refund, watch=False)
    queue.admin.script_load(scripts.script("release").source)

    released = [command.parse(queue.admin.execute_command(*command.wire)) for _ in range(3)]

    await worker.open("w1-again")
    assert released == [500, 100, 0]
    again = await claim_all(worker, 600)
    assert {lease.deliveries for lease in again} == {1 if refund else 2}
    assert sorted(int(lease.job_id) for lease in again) == list(range(600))


@pytest.mark.anyio
async def test_what_is_remembered_of_ends_goes_in_the_background_before_it_expires_and_not_before_no_one_asks(
    queue: RedisStore, worker: Consumer
) -> None:
    queue.clock.set_to = 1_795_640_000_000
    remembered = [f"finished:{queue.clock.set_to // 5000 + slot}" for slot in range(15)]

    for slot in range(15):
        await push(queue, f"job-{slot}")
        (lease,) = await claim(worker)
        assert (await worker.exchange([(lease, Ack())], None)).replies == [Reply.OK]
        known = dict(queue.keys())
        there = [key for key in remembered if key in known]
        assert there == remembered[max(0, slot - 12) : slot + 1]  # those of the last minute, and the one of now
        queue.clock.set_to += 5000
    for key in dict(queue.keys()):
        if key.startswith("finished:"):
            queue.admin.delete(queue.prefix + key)


@pytest.mark.anyio
@pytest.mark.parametrize(("seconds", "remembered"), [(59.9, 1), (60, 0)])
async def test_what_is_done_a_minute_after_its_push_is_not_remembered_as_no_push_of_it_can_come_any_more(
    queue: RedisStore, worker: Consumer, seconds: float, remembered: int
) -> None:
    queue.clock.advance(0)
    queue.put({"id": "a", "name": "Work"}, entry=f"{queue.clock()}-0")
    queue.clock.advance(seconds)
    for settlement in (Release(refund=False), Ack()):  # delivered twice, so it is ended by itself
        (lease,) = await claim(worker)
        assert (await worker.exchange([(lease, settlement)], None)).replies == [Reply.OK]

    assert len(queue.admin.keys(f"{queue.prefix}finished:*")) == remembered


@pytest.mark.anyio
@pytest.mark.parametrize("refund", [True, False])
async def test_of_what_a_worker_hands_back_at_once_each_keeps_its_own_count_of_deliveries(
    queue: RedisStore, worker: Consumer, refund: bool
) -> None:
    await push(queue, "b")
    await worker.exchange([(lease, Release(refund=False)) for lease in await claim(worker)], None)
    await push(queue, "a", priority=Priority.HIGH)
    await push(queue, "c", "d")
    assert [lease.deliveries for lease in await claim(worker, 4)] == [1, 2, 1, 1]

    assert await worker.release(refund=refund, watch=False) == 4

    heir = queue.consumer("w2", max_deliveries=9)
    again = await claim(heir, 4)
    counts = [(lease.job_id, lease.deliveries) for lease in again]
    assert counts == [(job_id, n + (not refund)) for job_id, n in (("a", 1), ("b", 2), ("c", 1), ("d", 1))]
    await heir.aclose()


@pytest.mark.anyio
async def test_no_look_after_lost_workers_hands_back_more_than_five_hundred_and_the_next_goes_on_there(
    queue: RedisStore, worker: Consumer
) -> None:
    for start in (0, 300):
        await push(queue, *map(str, range(start, start + 300)))
    assert len(await claim_all(worker, 600)) == 600
    queue.age(60)
    heir = queue.consumer("w2")

    looks = [await take_over(heir), *[await heir.reclaim() for _ in range(2)]]

    assert [(look.jobs, look.more) for look in looks] == [(500, True), (100, True), (0, False)]
    assert [lease.job_id for lease in await claim_all(heir, 600)] == list(map(str, range(600)))
    await heir.aclose()


@pytest.mark.anyio
async def test_what_a_worker_finds_of_its_own_is_all_there_is_behind_all_that_it_knows(
    queue: RedisStore, worker: Consumer
) -> None:
    for start in range(0, 1200, 400):
        await push(queue, *map(str, range(start, start + 400)))
    held = await claim_all(worker, 1200)
    assert len(held) == 1200

    found = await worker.recover(held[:550])

    assert [lease.key for lease in found] == [lease.key for lease in held[550:]]
    assert await worker.recover(held) == []


@pytest.mark.anyio
async def test_five_hundred_jobs_are_pushed_in_one_call_and_settled_in_one_exchange(
    queue: RedisStore, worker: Consumer
) -> None:
    assert await push(queue, *map(str, range(500)), unique_for_ms=60_000) == [Reply.OK] * 500
    leases = await claim_all(worker, 500)
    kinds: list[Settlement] = [Ack(), RetryLater(After(0)), Release(), FAILED, RetryLater(After(1))]
    settlements = [(lease, kinds[n % 5]) for n, lease in enumerate(leases)]
    assert (await worker.exchange(settlements, None)).replies == [Reply.OK] * 500
    queue.clock.advance(1)
    assert len(await claim_all(worker, 500)) == 300


@pytest.mark.anyio
@pytest.mark.parametrize(("fields", "is_whole"), [(499, True), (501, False)])
async def test_a_dead_letter_has_up_to_five_hundred_fields_or_all_of_them_in_one(
    queue: RedisStore, worker: Consumer, fields: int, is_whole: bool
) -> None:
    entry = queue.put({f"field-{number}": "x" for number in range(fields)})
    (lease,) = await claim(worker)
    assert (await worker.exchange([(lease, FAILED)], None)).replies == [Reply.OK]
    letter = await queue.driver.read(Find(entry))
    assert letter is not None
    assert (b"field-498" in letter.fields, b"entry" in letter.fields) == (is_whole, not is_whole)


@pytest.mark.anyio
async def test_of_more_than_five_hundred_jobs_each_that_is_cancelled_is_heard_of_and_all_are_settled(
    queue: RedisStore, worker: Consumer
) -> None:
    for start in range(0, 1100, 500):
        await push(queue, *map(str, range(start, min(start + 500, 1100))))
    leases = await claim_all(worker, 1100)
    for job_id in ("0", "1099"):
        assert await queue.driver.change(Cancel(job_id)) is Reply.CANCELLING
    heart = Heart(worker)
    assert [lease.job_id for lease in heart.beat(lambda: leases, {})] == ["0", "1099"]
    heart.close()
    for start in range(0, 1100, 500):
        settlements = [(lease, Ack()) for lease in leases[start : start + 500]]
        assert set((await worker.exchange(settlements, None)).replies) == {Reply.OK}
    assert happened(await queue.driver.read(Count())) == {"pushed": 1100, "completed": 1100}


@pytest.mark.anyio
async def test_what_is_known_of_given_ids_is_forgotten_by_a_few_commands_and_of_made_ones_by_none(
    queue: RedisStore,
) -> None:
    def deletes() -> int:
        return int(queue.admin.info("commandstats").get("cmdstat_del", {"calls": 0})["calls"])

    fields = ["name", "Work", "parameters", "{}"]
    await queue.driver.push([NewJob("warm up", fields)], repeated=False)
    queue.admin.config_resetstat()

    await queue.driver.push([NewJob(f"made-{number}", fields) for number in range(500)], repeated=False)
    assert deletes() == 0
    await queue.driver.push(
        [NewJob(f"given-{number}", fields, nonce="1") for number in range(500)], repeated=False
    )
    assert deletes() == 2
    await queue.driver.push(
        [NewJob(f"given-{number}", fields, nonce="2") for number in range(500)], repeated=False
    )
    assert deletes() == 2  # none was added
    await queue.driver.aclose()
