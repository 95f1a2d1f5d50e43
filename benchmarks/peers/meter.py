"""What a worker's jobs do, the same for every system: count, stamp a time, sleep.

It runs inside of the peers' own environments, so it knows nothing but the standard library. Each worker process
keeps `<pid>.count` in the folder `BENCH_METER`: three numbers in shared memory, the times of its first and last
job and how many there were. The first job of a process waits until the file `gate` exists there, so that a drain
starts in all processes at once, and neither start-up nor import is in its figure.
"""

import mmap
import os
import struct
import threading
import time

FOLDER = os.environ["BENCH_METER"]
COUNT, STAMP = struct.Struct("=QQQ"), struct.Struct("=QQ")
_lock = threading.Lock()
_state = None  # [shared memory, jobs, first ns]
_stamps = None


def _open():
    path = os.path.join(FOLDER, f"{os.getpid()}.count")
    with open(path + ".new", "w+b") as file:
        file.write(bytes(COUNT.size))
        file.flush()
        memory = mmap.mmap(file.fileno(), COUNT.size)
    os.rename(path + ".new", path)
    while not os.path.exists(os.path.join(FOLDER, "gate")):
        time.sleep(0.0005)
    return [memory, 0, time.monotonic_ns()]


def count():
    """One job is done."""
    global _state
    with _lock:  # for the peers whose handlers run in threads
        if _state is None:
            _state = _open()
        _state[1] += 1
        COUNT.pack_into(_state[0], 0, _state[2], time.monotonic_ns(), _state[1])


def stamp(text):
    """Write down when the job started, beside the time that its text begins with."""
    global _stamps
    now = time.monotonic_ns()
    with _lock:
        if _stamps is None:
            path = os.path.join(FOLDER, f"{os.getpid()}.stamps")
            _stamps = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(_stamps, STAMP.pack(int(text[:20]), now))
