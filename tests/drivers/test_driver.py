"""The contract of a driver: each test runs on memory and on every server at hand."""

from redisjobs_proof.contract import *  # noqa: F403
