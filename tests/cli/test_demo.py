"""The demo, as it is run; what it checks; and that it leaves no process behind, however it ends."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from commands import Commands, commands, until

from redisjobs.events.recording import Recording
from redisjobs.local.demo import report, results
from redisjobs.local.demo.place import DemoQueue, place
from redisjobs.local.demo.results import ResultLine, Verdict, check
from redisjobs.local.demo.workers import Kill
from redisjobs.sync import JobQueue
from redisjobs_proof.torture.topology import Cluster

FILES = 1500  # enough for a worker to be caught half-way


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with files in it, one below another, and what is no regular file."""
    root = tmp_path / "files"
    (root / "below").mkdir(parents=True)
    for number in range(FILES):
        place = root / "below" if number % 2 else root
        (place / f"{number} é.txt").write_text(f"file {number}\n" * number)
    (root / "link").symlink_to(root / "0 é.txt")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def demos() -> Iterator[Commands]:
    with commands("demo", "--lease", "1") as running:
        yield running


# A whole run


@pytest.mark.slow
def test_the_demo_kills_a_worker_and_loses_nothing(demos: Commands, folder: Path) -> None:
    demo = demos.start(folder)
    out, err = demo.communicate(timeout=50)

    assert (demo.returncode, err) == (0, "")
    assert out.splitlines()[-1] == f"verified {FILES} files: 0 lost"
    killed = re.search(r"killed worker \d+ \(SIGKILL\) with (\d+) running jobs; its replacement is \d+", out)
    assert killed is not None
    again = re.search(r"([\d.]+) s from the kill until the killed worker's (\d+) jobs were running again", out)
    assert again is not None
    assert again[2] == killed[1] != "0"
    assert 0.3 < float(again[1]) < 10
    assert re.search(rf"^{FILES} jobs in [\d.]+ s: \d+ jobs/s", out, re.M)
    assert demos.left() == {}


@pytest.mark.slow
def test_keep_leaves_a_server_that_its_commands_reach_and_its_pid_ends(demos: Commands, folder: Path) -> None:
    demo = demos.start(folder, "--keep")
    out, _ = demo.communicate(timeout=50)
    assert demo.returncode == 0

    commands = re.findall(r"^  (redis-cli .*)$", out, re.M)
    url = re.search(r"redis://[\d.:]+/0", out)
    pid = re.search(r"until: kill (\d+)", out)

    assert len(commands) == 3
    assert url is not None
    assert pid is not None
    with redis.Redis.from_url(url[0], decode_responses=True, protocol=3) as client:  # with names
        stats, consumers, dead = (client.execute_command(*_words(command)) for command in commands)
        (watched,) = client.scan_iter(match="*:fenced")
        lost = set(client.zrange(watched, 0, -1))
    killed = re.search(r"killed worker (\d+)", out)
    assert stats["completed"] == str(FILES)
    assert killed is not None
    names = {consumer["name"] for consumer in consumers} - {"released"}
    assert killed[1] in {name.split(":")[1] for name in names}
    assert names <= lost  # the others have left in order; or a late read of theirs is looked for
    assert dead == []
    os.kill(int(pid[1]), signal.SIGTERM)
    assert demos.left_after(10) == {}


def _words(command: str) -> list[str]:
    """What redis-cli would send: the words after its URL, quotes taken off."""
    return [word.strip("'") for word in command.split()[3:]]


@pytest.mark.slow
def test_the_demo_uses_another_server_by_its_option_and_takes_its_keys_away(
    demos: Commands, tmp_path: Path, redis_url: str
) -> None:
    (tmp_path / "one").write_text("1")

    out, _ = demos.start(tmp_path, "--url", redis_url).communicate(timeout=50)

    assert out.splitlines()[-1] == "verified 1 files: 0 lost"
    queue = re.search(rf"redis-cli -u {redis_url} HGETALL '(redisjobs:\{{demo-\w+\}}:)stats'", out)
    assert queue is not None
    with redis.Redis.from_url(redis_url) as client:
        lasting = [key for key in client.scan_iter(match=f"{queue[1]}*") if client.ttl(key) < 0]
    assert lasting == []


@dataclass
class Left:
    job_name: ClassVar[str] = "Left"


@pytest.mark.slow
def test_the_keys_of_a_demo_on_a_cluster_are_taken_away_from_the_node_that_has_them(cluster: Cluster) -> None:
    for _ in range(5):  # at least one on another node than a queue without a name
        with place(keep=False, url=cluster.url) as there, JobQueue(there.url, there.queue) as queue:
            queue.push(Left())

        with redis.Redis.from_url(cluster.owner(there.queue).url) as node:
            assert [key for key in node.scan_iter(match=f"*{there.queue}*") if node.ttl(key) < 0] == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["two workers", "killed worker"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(demos: Commands, moment: str, number: signal.Signals) -> None:
    demo = demos.start()  # the library: a few files may all be done before a worker is killed
    until(demo, moment)

    if number is signal.SIGINT:
        os.killpg(demo.pid, number)  # as a terminal does
    else:
        demo.send_signal(number)

    _, err = demo.communicate(timeout=20)
    assert (demo.returncode, err) == (130, "redisjobs: interrupted; nothing was left running\n")
    assert demos.left() == {}


@pytest.mark.slow
def test_a_killed_demo_takes_all_its_processes_with_it(demos: Commands) -> None:
    demo = demos.start()
    until(demo, "killed worker")

    demo.kill()

    demo.wait()
    assert demos.left_after(10) == {}


@pytest.mark.slow
def test_a_worker_that_dies_by_itself_ends_the_demo_with_a_reason(demos: Commands, folder: Path) -> None:
    demo = demos.start(folder)
    replacement = int(until(demo, "killed worker").split()[-1])

    os.kill(replacement, signal.SIGKILL)

    _, err = demo.communicate(timeout=20)
    assert demo.returncode == 1
    assert f"worker {replacement} ended by itself, code -9" in err
    assert demos.left() == {}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nowhere", "."])
def test_a_directory_without_files_is_a_mistake(demos: Commands, tmp_path: Path, what: str) -> None:
    demo = demos.start(tmp_path / what)

    _, err = demo.communicate(timeout=20)

    assert demo.returncode == 2
    assert len(err.splitlines()) == 1


# What it checks


@pytest.fixture
def run(tmp_path: Path) -> tuple[list[str], list[ResultLine]]:
    """Three files, and the lines of a worker that hashed them."""
    paths, lines = [], []
    for name in ("a", "b", "c"):
        path = tmp_path / name
        path.write_text(name)
        size, modified, digest = results._read_directly(str(path))
        paths.append(str(path))
        started = ResultLine(f"job-{name}", 7, 100.0, str(path))
        ended = replace(started, at=101.0, ended=True, size=size, modified=modified, sha256=digest)
        lines += [started, ended]
    return paths, lines


def conclusion(verdict: Verdict, capsys: Any, skipped: int = 0) -> tuple[int, list[str]]:
    print(report.conclusion(verdict, skipped))
    code = int(not verdict.passed)
    return code, capsys.readouterr().out.splitlines()


Spoil = Callable[[Sequence[str], list[ResultLine]], object]


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda paths, lines: None, 0, ["verified 3 files: 0 lost"]),
        (lambda paths, lines: lines.pop(), 1, ["lost: {c}", "verified 2 files: 1 lost"]),
        (
            lambda paths, lines: lines.clear(),
            1,
            ["lost: {a}", "lost: {b}", "lost: {c}", "verified 0 files: 3 lost"],
        ),
        (
            lambda paths, lines: lines.append(replace(lines[1], sha256="0" * 64)),
            1,
            ["wrong: {a}", "verified 2 files: 0 lost, 1 wrong"],
        ),
        (
            lambda paths, lines: lines.append(replace(lines[1], size=0, modified=0, sha256="", error="denied")),
            1,
            ["wrong: {a}", "verified 2 files: 0 lost, 1 wrong"],
        ),
        (
            lambda paths, lines: Path(paths[0]).write_text("changed"),
            0,
            ["1 file changed after a worker had read them", "verified 2 files: 0 lost"],
        ),
        (
            lambda paths, lines: Path(paths[0]).unlink(),
            0,
            ["1 file could not be read: gone, or no permission", "verified 2 files: 0 lost"],
        ),
    ],
    ids=["all well", "one lost", "all lost", "wrong digest", "not read", "changed since", "gone since"],
)
def test_every_file_is_accounted_for(
    run: tuple[list[str], list[ResultLine]], spoil: Spoil, code: int, said: Sequence[str], capsys: Any
) -> None:
    paths, lines = run
    spoil(paths, lines)

    verdict = check(paths, lines)

    names = dict(zip("abc", paths, strict=True))
    assert conclusion(verdict, capsys) == (code, [line.format(**names) for line in said])


def test_a_long_list_of_what_is_lost_is_cut(capsys: Any) -> None:
    code, said = conclusion(Verdict(lost=[f"/{number}" for number in range(30)]), capsys, skipped=2)

    assert code == 1
    assert said[0] == "2 files left out: the name is not UTF-8"
    assert said[-2:] == ["lost: 20 more", "verified 0 files: 30 lost"]
    assert len(said) == 13


def test_a_line_that_a_kill_cut_off_is_no_result(tmp_path: Path) -> None:
    line = ResultLine("job", os.getpid(), 1.0, "/a é", ended=True, sha256="0")
    book = Recording(tmp_path)
    book.write(asdict(line))
    book.write(asdict(line))
    (file,) = tmp_path.glob("*.jsonl")

    os.truncate(file, file.stat().st_size - 1)

    assert list(results.read(tmp_path)) == [line]


def test_the_report_tells_when_the_killed_workers_jobs_ran_again(capsys: Any) -> None:
    def started(job: str, pid: int, at: float) -> ResultLine:
        return ResultLine(job, pid, at, f"/{job}")

    lines = [started("a", 7, 99.0), started("b", 7, 99.0), started("c", 8, 99.5)]
    lines += [started("a", 8, 103.0), started("b", 9, 104.5)]
    told = report.Run(3, lease=3, seconds=6.0, before=1, before_seconds=0.5)
    told.kill = Kill(7, 100.0, frozenset("ab"))

    print(report.text(told, lines, DemoQueue("redis://h:1/0", "redis://h:1/0", "a server", "demo-1")))

    assert capsys.readouterr().out.splitlines() == [
        "3 jobs in 6.0 s: 0 jobs/s (2 jobs/s until the kill)",
        "4.5 s from the kill until the killed worker's 2 jobs were running again (the first after 3.0 s; "
        "the lease is 3 s)",
        "2 jobs ran twice",
        "look around (on a run with --keep: this server is gone):",
        "  redis-cli -u redis://h:1/0 HGETALL 'redisjobs:{demo-1}:stats'",
        "  redis-cli -u redis://h:1/0 XINFO CONSUMERS 'redisjobs:{demo-1}:ready:normal' workers",
        "  redis-cli -u redis://h:1/0 XRANGE 'redisjobs:{demo-1}:dead' - + COUNT 10",
    ]


@pytest.mark.parametrize(
    ("url", "program"),
    [
        ("rediss+cluster://joe@h1:1,h2:2", "redis-cli -c -u rediss://joe@h1:1"),
        ("redis+sentinel://s1:1,s2:2/jobs/0", "redis-cli -h MASTER"),
    ],
)
def test_the_commands_to_paste_name_one_server_which_is_all_that_redis_cli_takes(url: str, program: str) -> None:
    first, *_ = report.commands(DemoQueue(url, url, "servers", "demo-1"))
    assert first == f"{program} HGETALL 'redisjobs:{{demo-1}}:stats'"
