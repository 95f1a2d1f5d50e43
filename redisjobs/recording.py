"""What processes write down while they are being killed: one file a process, one JSON object a line.

A line goes out in one write, so a process killed by SIGKILL can at most cut its last line; a cut line counts as
not written.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Recording:
    """This process' own file, made with its first line. For any number of threads."""

    def __init__(self, directory: str | Path) -> None:
        self._path = Path(directory) / f"{os.getpid()}.recording"
        self._lock = threading.Lock()
        self._file = -1

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        with self._lock:
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read(directory: str | Path) -> Iterator[dict[str, Any]]:
    """Every line that was written whole, of all processes; of each process in its order."""
    for path in sorted(Path(directory).glob("*.recording")):
        *whole, _cut = path.read_bytes().split(b"\n")
        for text in whole:
            yield json.loads(text)
