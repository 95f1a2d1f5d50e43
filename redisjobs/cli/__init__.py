"""The command line. Only in here is the environment read."""

import sys

# -P: without it the current directory comes first where Python looks for modules, and a `queue.py` there would be
# taken for Python's own.
PROGRAM = (sys.executable, "-P", "-m", "redisjobs")
"""How a process is started that runs a command."""
