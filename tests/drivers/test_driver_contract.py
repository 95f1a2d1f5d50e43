"""The contract of a driver finds faults, and runs as its page says: in a folder of an author's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import driver_faults
import pytest
from pages import PROJECT, Page

PAGE = Page(PROJECT / "docs/drivers.md")
EXAMPLE = PAGE.files["test_memory.py"]
PACKAGE = "redisjobs_proof.contract"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def parts_of(module: str) -> str:
    """The imports of one module of tests."""
    return "".join(f"from {PACKAGE}.{each} import *\n" for each in ("fixtures", module))


class Author:
    """A folder in which an author tests a driver: the memory driver, maybe with a fault."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""

    def break_driver(self, fault: str, *arguments: str) -> None:
        """Put a fault of `driver_faults` into the driver."""
        conftest = f"import driver_faults\n\ndriver_faults.{fault}{arguments}\n"
        (self.folder / "conftest.py").write_text(conftest, "utf-8")

    def run(self, module: str = "", *, test: str = "", store: str = "") -> list[str]:
        """Run the contract, or some of it; which tests failed.

        Args:
            module: Which; '': all, as the page has it.
            test: Which one of it; '': all.
            store: What follows in the fixture's module.
        """
        whole = f"from {PACKAGE} import *  # noqa: F403\n"
        assert whole in EXAMPLE
        code = EXAMPLE.replace(whole, parts_of(module)) if module else EXAMPLE
        (self.folder / "test_mine.py").write_text(code + store, "utf-8")
        plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
        env = plain | {"PYTHONPATH": paths, "COLUMNS": "200", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        plugins = ["-p", "anyio", "-p", "no:cacheprovider"]
        command = [
            sys.executable,
            "-m",
            "pytest",
            *plugins,
            "-q",
            "-rA",
            "-W",
            "error",
            "-k",
            test,
            "test_mine.py",
        ]
        ran = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=200)
        self.output = ran.stdout + ran.stderr
        assert ran.returncode in (0, 1), self.output
        return re.findall(r"^(?:FAILED|ERROR) test_mine\.py::(\w+)", self.output, re.MULTILINE)

    @property
    def passed(self) -> int:
        """How many tests have passed."""
        return len(re.findall(r"^PASSED test_mine\.py::", self.output, re.MULTILINE))


@pytest.fixture
def author(tmp_path: Path) -> Author:
    return Author(tmp_path)


def test_the_example_of_the_page_runs_the_whole_contract(author: Author) -> None:
    assert author.run() == []
    assert author.passed >= 360


FAULTS = {
    "pushes_what_is_there": ("claiming", "an_id_given_twice_in_one_push_is_one_job"),
    "forgets_what_it_refused": ("repeating", "a_push_that_was_refused_when_it_was_repeated_stays_refused"),
    "heeds_lost_leases": ("settling", "a_worker_that_lost_its_lease_writes_nothing"),
    "settles_again": (
        "settling",
        "an_exchange_that_is_sent_again_is_answered_as_before_and_not_applied_twice",
    ),
    "forgets_deliveries": ("reclaiming", "a_job_whose_worker_died_goes_to_another"),
    "heeds_fenced_workers": ("reclaiming", "a_fenced_worker_is_refused_whole_and_writes_nothing"),
    "spares_nobody": ("reclaiming", "a_worker_that_beats_between_being_named_and_being_fenced_is_spared"),
    "leaves_no_killer_alone": ("last_deliveries", "a_job_delivered_for_the_last_time_has_its_worker_for_itself"),
    "tells_nothing": ("waiting", "notifications_tell_of_an_earlier_due_time_a_cancel_and_a_release"),
    "keeps_shares": ("limiting", "however_a_job_ends_its_share_is_free_for_the_next_in_line"),
    "starts_over_a_limit": ("limiting", "no_more_jobs_of_a_name_run_at_once_than_its_limit_says"),
    "writes_as_it_reads": ("asking", "a_query_writes_nothing"),
    "knows_only_what_it_did_itself": ("sharing", "what_one_driver_pushes_and_changes_another_finds"),
    "keeps_results_of_lost_leases": ("awaiting", "a_worker_that_lost_its_lease_leaves_no_result"),
    "tells_nobody_who_waits": ("awaiting", "a_batch_tells_those_who_wait_for_some_of_it"),
    "forgets_no_end": ("awaiting", "a_new_life_of_an_id_forgets_how_the_last_one_ended"),
    "replaces_as_often_as_it_is_told": (
        "unique_keys",
        "a_push_that_replaced_and_is_repeated_undoes_no_later_one",
    ),
    "saves_again": ("saving_steps", "the_first_result_of_a_step_stays"),
    "keeps_steps_of_what_has_ended": ("saving_steps", "steps_go_when_the_job_ends"),
    "takes_signals_again": ("suspending", "a_signal_that_is_sent_again_is_not_taken_twice"),
    "keeps_no_signal": ("suspending", "an_early_signal_is_kept_until_the_job_waits_for_it_and_the_first_one_wins"),
    "wakes_no_parent": (
        "awaiting_children",
        "the_end_of_the_last_child_wakes_the_parent_with_the_outcomes_of_all",
    ),
    "adds_children_again": (
        "awaiting_children",
        "children_are_added_once_however_often_the_step_is_begun",
    ),
    "cancels_no_children": (
        "awaiting_children",
        "the_cancel_of_a_parent_goes_down_to_its_children_that_have_not_ended",
    ),
    "parts_parents_from_children": (
        "taking",
        "a_parent_and_its_children_stay_until_all_of_them_have_ended",
    ),
    "imports_again": ("importing", "a_job_comes_once_however_often_and_late_it_is_sent"),
    "imports_no_steps": ("importing_steps", "a_job_comes_with_what_it_has_saved_and_what_it_waits_for"),
    "numbers_no_runs": (
        "streaming",
        "a_run_that_starts_over_has_the_next_number_and_one_that_goes_on_after_a_wait_has_not",
    ),
    "lacks_measure": ("asking", "workers_are_counted_for_as_long_as_their_leases_run"),
}
"""A fault of a driver; in which module of the contract a test finds it, and which."""


@pytest.mark.release  # each is a run of pytest
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_driver_is_found(author: Author, fault: str) -> None:
    module, test = FAULTS[fault]
    author.break_driver(fault)

    assert f"test_{test}" in author.run(module, test=test)


def test_every_fault_that_is_written_down_is_tried() -> None:
    named = {
        name for name, value in vars(driver_faults).items() if getattr(value, "__module__", "") == "driver_faults"
    }
    assert {name for name in named if name.islower() and name[0] != "_"} == {*FAULTS, "lacks"}


def test_a_failure_shows_what_was_compared(author: Author) -> None:
    author.break_driver("pushes_what_is_there")

    author.run("claiming", test="an_id_given_twice")

    assert re.search(r"^E .*Pushed\(reply=<Reply.OK.* != Pushed\(reply=<Reply.EXISTS", author.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("lacks", "module", "passed"),
    [("GetBacklog", "asking", 41), ("GetStatus", "reporting", 0)],
    ids=["of a test", "of a module"],
)
def test_what_a_driver_says_it_lacks_is_not_tested(author: Author, lacks: str, module: str, passed: int) -> None:
    author.break_driver("lacks", lacks)
    says_so = f"""

from redisjobs.model.changes import GetStatus
from redisjobs.model.queries import GetBacklog


@pytest.fixture
def driver_store():
    store = MemoryStore()
    store.lacks = {{{lacks}}}
    return store
"""

    assert author.run(module, store=says_so) == []
    assert author.output.count(f"this driver has no {lacks}") >= 1
    assert author.passed >= passed


# The order in which a driver is built

STEPS = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.text.partition("## In which order to build")[2], re.MULTILINE)
MODULES = [module for module, _ in STEPS]
BUILT = {
    "claiming": [],
    "settling": ["RetryLater", "Release", "DeadLetter", "turns", "Scan", "Count", "Cancel"],
    "operating": ["Requeue", "Delete", "beat"],
    "repeating": ["repeated"],
    "leaving": ["recover", "release"],
    "reclaiming": ["reclaim"],
    "last_deliveries": ["idle"],
    "waiting": ["wait", "listen of a consumer"],
    "scanning": ["GroupDead", "RequeueAll", "DeleteAll"],
    "asking": ["the sync driver", "ReportProgress", "GetBacklog", "ChangeMany", "Tidy", "FindWorkers"],
    "histories": [],
    "pausing": ["Pause", "Resume", "FindPauses", "Unpark"],
    "holding": ["Hold", "Unhold"],
    "limiting": ["SetLimit", "FindLimits"],
    "pacing": [],
    "lining_up": [],
    "unique_keys": ["on_conflict"],
    "requeued_keys": [],
    "following": ["pushes"],
    "sharing": ["listen of a driver"],
    "awaiting": ["GetStatus"],
    "reporting": [],
    "recording": ["Record", "FindIntervals"],
    "standing": ["Ahead"],
    "wishing": ["AskWorker"],
    "relaying": ["Relay", "ForgetRelayed", "FindRelayed"],
    "saving_steps": ["GetSteps", "SaveStep", "from_step"],
    "suspending": ["Suspend", "Signal"],
    "going_on": [],
    "awaiting_children": ["AddChildren", "the children of a Suspend", "FindChildren", "CancelChildren"],
    "taking": ["Take", "FindTaken", "ForgetTaken", "FindRetention"],
    "importing": ["Import"],
    "importing_steps": [],
    "begun_keys": [],
    "streaming": ["EmitChunks", "GetChunks"],
}
"""What there is from a step on, of what `driver_faults` can take away."""


def test_the_page_names_each_module_of_tests_and_what_to_build_for_it() -> None:
    folder = PROJECT / "proof/redisjobs_proof/contract"
    with_tests = {path.stem for path in folder.glob("*.py") if "def test_" in path.read_text("utf-8")}

    assert len(MODULES) == len(set(MODULES))
    assert set(MODULES) == with_tests
    assert list(BUILT) == MODULES
    assert {verb for verbs in BUILT.values() for verb in verbs} == set(driver_faults.VERBS)
    for module, build in STEPS:
        for verb in BUILT[module]:
            assert verb.split(" of ")[0] in build, (module, verb)
    assert all(line in PAGE.text for line in parts_of(MODULES[0]).splitlines())


@pytest.mark.release  # each is a run of pytest
@pytest.mark.parametrize("module", [*BUILT][:-1])  # by the last one all is built
def test_what_is_built_by_a_step_is_enough_for_its_tests(author: Author, module: str) -> None:
    later = MODULES[MODULES.index(module) + 1 :]
    author.break_driver("lacks", *(verb for each in later for verb in BUILT[each]))

    assert author.run(module) == []
    assert author.passed >= 6


def test_no_two_tests_of_the_contract_have_one_name() -> None:
    folder = PROJECT / "proof/redisjobs_proof/contract"
    names = [
        name
        for path in folder.glob("*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)
    ]

    assert len(names) == len(set(names)) > 100


def test_an_author_without_pytest_learns_what_to_install() -> None:
    program = f"import sys\nsys.modules['pytest'] = None\nimport redisjobs.testing.clock\nimport {PACKAGE}"

    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=50)

    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "ImportError: the contract of a driver is run by pytest, which is not here: "
        "install redisjobs with its extra `testing`"
    )
