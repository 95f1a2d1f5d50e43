"""Logging that nobody waits for: what a log goes to may be what hangs."""

import logging
import threading


def log_aside(logger: logging.Logger, level: int, text: str, *args: object) -> threading.Thread:
    """Log a line from a thread of its own; the thread, for who wants to wait for it a little."""
    saying = threading.Thread(target=logger.log, args=(level, text, *args), daemon=True)
    saying.start()
    return saying
