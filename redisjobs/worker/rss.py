"""How much memory this process has in use."""

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import resource


def rss() -> int:
    """Resident bytes now; where the system tells only the most there ever were, those; 0 if it tells nothing."""
    if sys.platform == "linux":
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # no /proc, or no file descriptor left just now
            return 0
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
