"""Pushes the jobs of schedules when they are due."""
