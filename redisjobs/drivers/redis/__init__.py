"""The driver that keeps a queue on a Redis-compatible server."""
