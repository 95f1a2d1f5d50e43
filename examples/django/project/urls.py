"""The URLs of the project."""

from django.urls import path

from signups import views

urlpatterns = [
    path("signup", views.signup),
    path("tasks/<result_id>", views.status),
    path("health", views.health),
]
