"""Runs the web application's jobs and schedules in a separate process."""

import logging

import anyio
from signups import queue

logging.basicConfig(level=logging.INFO)
anyio.run(queue.service(concurrency=20).run)
