"""The driver that keeps a queue in this process."""
