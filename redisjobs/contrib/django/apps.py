"""The Django app, which adds the management command. The backend works without it."""

from django.apps import AppConfig


class RedisJobs(AppConfig):
    """The app `redisjobs.contrib.django`."""

    name = "redisjobs.contrib.django"
    label = "redisjobs"
    verbose_name = "redisjobs"
