"""redisjobs in a Django project: a backend for Django's tasks, and connections that are closed around jobs.

::

    TASKS = {"default": {"BACKEND": "redisjobs.contrib.django.Backend", "OPTIONS": {"url": "redis://127.0.0.1:6379/0"}}}
"""

import sys

try:
    import django
    import django.tasks  # new in Django 6.0
except ImportError as error:
    found = f"Django {django.__version__}" if "django" in sys.modules else "no Django"
    raise ImportError(
        "redisjobs.contrib.django needs Django 6.0 or newer, and that needs Python 3.12 or newer; here are "
        f"{found} and Python {sys.version.split()[0]}"
    ) from error

from redisjobs.contrib.django.backend import Backend as Backend
from redisjobs.contrib.django.connections import Connections as Connections

__all__ = ["Backend", "Connections"]
