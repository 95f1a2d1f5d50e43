"""Each feature of Hummingbird Jobs, the queue that redisjobs re-imagines, has a test here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FEATURES = {
    "typed parameters": "test_job: a_name_registered_twice_is_an_error_at_once_and_changes_nothing",
    "many names for one type": "test_job: one_type_can_serve_many_names",
    "handlers are registered": "test_job: a_handler_takes_parameters_and_if_it_likes_the_context",
    "bad bytes, unknown names": "test_worker: a_job_whose_name_no_worker_knows_runs_once_a_worker_does",
    "one queue type for every driver": "test_queue: a_pushed_job_can_be_looked_up",
    "push returns an id": "claiming: a_pushed_job_is_claimed_and_settled_once",
    "delay": "claiming: a_delayed_job_waits_until_it_is_due",
    "priority, kept by retries": "settling: a_retried_job_keeps_its_id_priority_and_time_of_push",
    "driver protocol": "asking: a_query_writes_nothing",
    "concurrency": "test_worker: as_many_jobs_run_at_once_as_there_are_slots",
    "retry with jitter": "test_retry: the_wait_is_two_to_the_attempt_capped_and_then_jittered_by_half",
    "JobSleep loses nothing": "test_worker: a_handler_steers_by_raising",
    "context": "test_worker: a_handler_is_told_of_its_job",
    "timeout": "test_worker: a_job_over_its_timeout_is_cancelled_and_retried",
    "middleware": "test_middleware: the_first_middleware_is_outermost_and_a_workers_own_is_inside",
    "metrics": "test_metrics: jobs_are_counted_by_what_became_of_them",
    "tracing with a link": "test_tracing: the_link_is_kept_through_retries_snoozes_and_delays",
    "schedule builders and crontab": "test_schedule: a_rule_names_these_slots",
    "accuracy latest or all": "test_scheduler: after_an_outage_the_slots_that_were_missed_are_made_up_for",
    "the last slot is stored with the push": "test_schedules: a_slot_is_fired_once_however_often_it_is_asked_for",
    "any number of schedulers": "test_scheduler: however_many_schedulers_there_are_each_slot_is_fired_once",
    "metadata beside the queue": "test_schedules: of_two_releases_that_of_the_scheduler_that_began_later_counts",
    "states": "operating: every_state_is_found_listed_and_counted",
    "cancel of a pending job": "test_queue: cancel_says_what_it_did",
    "hold of a pending job": "holding: a_held_job_is_passed_over_until_it_is_let_go_and_keeps_its_place",
    "cancel of a running job": "test_worker: cancelling_a_running_job_cancels_its_handler",
    "pause of a queue": "test_pauses: workers_start_nothing_while_their_queue_is_paused_and_go_on_at_once",
    "retention": "test_kept_jobs: the_oldest_go_over_their_age_or_number",
    "a queue is looked after": "test_lua: all_consumers_are_looked_at_once_a_minute_however_many_workers_ask",
    "rerun of failed jobs": "operating: a_requeued_dead_letter_starts_again_under_its_id",
    "no half-written state": "test_lua: jobs_whose_consumer_was_removed_run_again_and_no_others",
    "a blocking handler keeps its job": "test_worker: a_handler_that_blocks_the_event_loop_keeps_its_job",
    "stalled jobs are found": "reclaiming: a_job_whose_worker_died_goes_to_another",
    "graceful stop": "test_worker: after_the_grace_jobs_are_released_to_others_with_their_attempt_unspent",
    "service": "test_service: a_web_application_runs_its_jobs_in_the_same_process_and_is_drained_by_sigterm",
    "several queues": "test_several_queues: under_load_jobs_begin_by_weight_however_many_slots_are_free_at_once",
    "memory driver": "test_drivers_agree: memory_and_redis_agree_whatever_is_done_to_them",
    "the error is stored": "settling: a_failed_job_is_a_dead_letter_with_its_fields_and_the_notes",
    "results and progress": "awaiting: what_a_job_returned_is_there_once_it_is_done",
    "unique jobs": "repeating: a_unique_key_is_held_as_long_as_its_job_lives",
    "limits by rate and name": "limiting: no_more_jobs_of_a_name_run_at_once_than_its_limit_says",
    "bulk push": "test_queue: many_jobs_are_pushed_in_order_from_a_generator",
    "no polling": "test_worker: an_idle_worker_wakes_at_once_for_a_push",
    "keys are safe in a cluster": "test_lua: no_script_walks_all_keys_or_flushes_them",
    "lists and a command line": "test_cli: every_command_that_prints_data_prints_one_json_document",
    "fencing": "settling: a_worker_that_lost_its_lease_writes_nothing",
    "jobs that kill their workers": "last_deliveries: a_job_that_kills_its_workers_becomes_a_dead_letter",
}
"""By a feature, a test of it: the file, in tests/ or in the contract of a driver, and the test's name."""


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_has_a_test(feature: str) -> None:
    module, name = FEATURES[feature].split(": ")
    folder = "tests" if module.startswith("test_") else "proof/redisjobs_proof/contract"
    (source,) = (ROOT / folder).rglob(f"{module}.py")

    assert re.search(rf"^(?:async )?def test_{name}\(", source.read_text("utf-8"), re.MULTILINE)
