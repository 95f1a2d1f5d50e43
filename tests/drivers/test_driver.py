"""The contract of a driver: each test runs on memory and on every server at hand."""

from redisjobs.testing.driver_contract import *  # noqa: F403
