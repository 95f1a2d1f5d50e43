"""The driver of `postgresql://`: a queue's jobs are rows, and each change is one call of a function there."""
