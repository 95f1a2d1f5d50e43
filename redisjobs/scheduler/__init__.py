"""Pushes the jobs that schedules say are due."""
