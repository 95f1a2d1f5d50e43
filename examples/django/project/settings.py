"""The settings of the project."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).parents[1]
SECRET_KEY = os.environ.get("SECRET_KEY", "only for development")
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = ["redisjobs.contrib.django", "signups"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
USE_TZ = True

TASKS = {
    "default": {
        "BACKEND": "redisjobs.contrib.django.Backend",
        "QUEUES": ["default", "emails"],
        "OPTIONS": {
            "url": os.environ.get("REDISJOBS_URL", "redis://127.0.0.1:6379/0"),
            "keep_result": 3600,
            "enqueue_on_commit": True,
        },
    }
}
