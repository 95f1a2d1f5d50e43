"""A worker's settings, its health, and how it stops."""
