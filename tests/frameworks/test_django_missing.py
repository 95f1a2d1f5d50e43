"""What is said where Django, or its tasks, are not there."""

import subprocess
import sys


def test_without_the_tasks_of_django_the_error_says_what_is_needed_and_what_is_here() -> None:
    program = "import sys; sys.modules['django.tasks'] = None; import redisjobs.contrib.django"

    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=50)

    here = f"Python {sys.version.split()[0]}"
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(
        "ImportError: redisjobs.contrib.django needs Django 6.0 or newer, and that needs Python 3.12"
    )
    assert said.endswith(here)
