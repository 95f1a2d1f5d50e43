"""Runs the jobs of the web application, and fires their schedules, in a process of its own."""

import logging

import anyio
from signups import queue

logging.basicConfig(level=logging.INFO)
anyio.run(queue.service(concurrency=20).run)
