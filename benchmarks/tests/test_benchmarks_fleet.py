"""The fleet on one server: what is measured of real workers, and stand-ins that repeat it."""

import re
import resource
import time
from pathlib import Path

import pytest

from benchmarks import fleet, fleet_report
from benchmarks.__main__ import main
from benchmarks.fleet_place import Place
from benchmarks.fleet_report import Check, Costs, Phase, Result
from benchmarks.fleet_traffic import Timer, counts, sent, timers
from benchmarks.systems import Failed
from redisjobs.drivers.redis import scripts

BEAT, RECORD = scripts.script("beat").sha, scripts.script("record").sha
WORKER, RECORDER = "host:12:0a1b2c3d", "0123456789abcdef"
MONITORED = f"""OK
+1.1 [0 127.0.0.1:1] "EVALSHA" "{BEAT}" "1" "redisjobs:{{q}}:worker:" "{WORKER}" "" "names" "caf\\xc3\\xa9 \\"x\\""
+1.2 [0 lua] "HSET" "redisjobs:{{bench}}:worker:{WORKER}" "at" "1"
+1.3 [0 127.0.0.1:1] "HELLO" "3"
+1.4 [0 127.0.0.1:2] "XREADGROUP" "GROUP" "workers" "{WORKER}"
+1.5 [0 127.0.0.1:1] "EVALSHA" "{RECORD}" "1" "redisjobs:{{bench}}:recorded:" "{RECORDER}" "7" ""
+1.6 [0 127.0.0.1:1] "EXISTS" "redisjobs:{{bench}}:paused" "redisjobs:{{bench}}:held"
""".encode()


def a_phase(wanted: float, jobs: float, cpu: float) -> Phase:
    return Phase(wanted, jobs, cpu, 10.0, 10.0, 10.0, 10, 1000, 10.0, 5, [0.001, 0.002])


def a_result(*checks: Check) -> Result:
    costs = Costs(push=4e-6, run=6e-6, memory=300.0)
    phases = [a_phase(0, 0, 0.1), a_phase(100, 100, 0.2), a_phase(200, 120, 0.3), a_phase(300, 280, 0.3)]
    return Result(2, 3, 5, 1, checks, costs, phases, [(4, 100e-6), (14, 120e-6)])


def test_commands_of_clients_are_counted_and_not_those_of_scripts_or_of_opening_a_connection() -> None:
    found = counts(sent(MONITORED))

    assert found == {"beat": 1, "record": 1, "xreadgroup": 1, "exists paused": 1}


def test_what_jobs_do_not_cause_is_repeated_as_often_as_real_workers_sent_it() -> None:
    found = timers(sent(MONITORED), workers=4, seconds=10)

    assert {timer.name: timer.every for timer in found} == {"beat": 40, "record": 40, "exists paused": 40}


def test_a_stand_in_repeats_a_command_with_ids_of_its_own() -> None:
    beat, record = (timer.command("other:1:00000000", 8).wire for timer in timers(sent(MONITORED), 1, 1)[:2])

    assert beat[1:] == [BEAT, "1", "redisjobs:{q}:worker:", "other:1:00000000", "", "names", 'café "x"']
    assert record[4] != RECORDER
    assert record[5] == "8"


@pytest.mark.parametrize(
    ("commands", "holds"),
    [
        ({"beat": 109.0}, True),
        ({"beat": 91.0}, True),
        ({"beat": 111.0}, False),
        ({"beat": 89.0}, False),
        ({"beat": 94.0, "settle": 6.0}, False),  # as many, but others
    ],
)
def test_stand_ins_must_send_each_command_as_often_as_real_ones(commands: dict[str, float], holds: bool) -> None:
    result = a_result(Check(0, {"beat": 100.0}, commands, 1.0, 1.0))

    assert result.is_like_real is holds
    assert ("which holds" in fleet_report.text(result)) is holds


def test_a_phase_that_left_jobs_behind_gives_no_constant() -> None:
    result = a_result(Check(0, {"beat": 1.0}, {"beat": 1.0}, 1.0, 1.0))

    assert [phase.kept_up for phase in result.phases] == [True, True, False, False]
    assert result.life == pytest.approx(0.001)  # of the phase at 100 jobs/s, less the idle fleet


def test_each_worker_that_waits_makes_a_job_dearer() -> None:
    result = a_result(Check(0, {"beat": 1.0}, {"beat": 1.0}, 1.0, 1.0))

    assert result.a_waiting_worker == pytest.approx(2e-6)


def test_jobs_by_plan_leave_room_for_idle_workers() -> None:
    result = a_result(Check(0, {"beat": 1.0}, {"beat": 1.0}, 1.0, 1.0))  # 2 idle workers use 0.1 of the core

    assert result.jobs_by_plan(workers=4, life=100e-6) == pytest.approx((0.6 - 0.2) / 100e-6)


def test_the_page_plans_with_the_same_share_of_a_core_as_its_tables(project: Path) -> None:
    prose = (project / "docs/scale.md").read_text("utf-8").partition(fleet_report.HEADING)[0]

    assert set(re.findall(r"[\d.]+(?= %)", prose)) == {f"{fleet_report.BUSY * 100:g}"}


def test_only_the_measured_part_of_the_page_is_replaced() -> None:
    result = a_result(Check(0, {"beat": 1.0}, {"beat": 1.0}, 1.0, 1.0))

    page = fleet_report.page("# Title\n\nProse.\n\n## Measured\n\nOld.\n", "2026-01-02, M", result)

    assert page.startswith("# Title\n\nProse.\n\n## Measured\n\n2026-01-02, M\n\n2 workers")
    assert "Old." not in page


def test_a_limit_of_open_files_that_is_too_low_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))

    with pytest.raises(Failed, match=r"needs 5,000 open files.* limit is 4,096: raise it .*fewer --workers"):
        fleet.allow_files(5000)


def test_the_fleet_is_a_word_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fleet", "--seconds", "61"])

    assert "--seconds from 1 to 60" in capsys.readouterr().err


@pytest.mark.slow
def test_stand_ins_run_what_stand_ins_push_and_stay_alive() -> None:
    beat = Timer("ping", 0.1, ("PING",))
    with Place(100) as place:
        producers = place.start("stand_in_producers", 3)
        workers = place.start("stand_in_workers", 2, 5)
        place.wait(lambda: place.connections == 3 + 2 * 5, "all connections")
        workers.ask(timers=[vars(beat)])
        producers.ask(rate=100)
        place.wait(lambda: place.completed >= 50, "the jobs")
        producers.ask(rate=0)
        place.wait(lambda: place.waiting == 0, "the last jobs")
        time.sleep(0.2)  # pushes and settlements under way are counted
        pushed, ran = producers.ask(), workers.ask()

    assert pushed["jobs"] == ran["jobs"] >= 50
    assert ran["commands"] > 2 * ran["jobs"]


@pytest.mark.slow
def test_a_stand_in_whose_push_fails_ends_its_process_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with Place(100) as place:
        producers = place.start("stand_in_producers", 1)
        place.server.kill()
        producers.ask(rate=100)

        with pytest.raises(Failed, match="stand_in_producers"):
            place.wait(lambda: not producers.ask(), "its end")

    assert "closed the connection" in capfd.readouterr().err
