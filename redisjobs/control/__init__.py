"""The operator's door of a queue, and the calls behind it."""
