"""The log format of a worker process: text lines for people, or one JSON object per line for programs."""

import json
import logging
import sys
import time
from enum import StrEnum
from typing import Any


class LogLevel(StrEnum):
    """The lowest level to log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The format of a log line."""

    TEXT = "text"
    JSON = "json"


def configure(level: LogLevel, form: LogFormat) -> None:
    """Log to stderr, unless logging was set up already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else _text_formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _text_formatter() -> logging.Formatter:
    line = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    _use_utc(line)
    return line


def _use_utc(formatter: logging.Formatter) -> None:
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"


class JsonFormatter(logging.Formatter):
    """A formatter for one JSON object per line: time, level, logger, message, exception, and `extra`."""

    _OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def __init__(self) -> None:
        super().__init__()
        _use_utc(self)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON; a value that JSON can't hold becomes its repr."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        extra = {key: value for key, value in vars(record).items() if key not in self._OWN}
        return json.dumps(extra | line) if _is_plain(extra) else _dumped(extra, line)


def _is_plain(extra: dict[str, Any]) -> bool:
    return all(value is None or isinstance(value, str | int | bool) for value in extra.values())


def _dumped(extra: dict[str, Any], line: dict[str, str]) -> str:
    try:
        return _json(extra | line)
    except (ValueError, RecursionError):
        return _json({key: _carried(value) for key, value in extra.items()} | line)


def _carried(value: Any) -> Any:
    """Return a value, or its repr if JSON can't hold it, for example NaN or a list inside itself."""
    try:
        _json(value)
    except (ValueError, RecursionError):
        return repr(value)
    return value


def _json(value: Any) -> str:
    return json.dumps(value, default=repr, skipkeys=True, allow_nan=False)
