"""The producers and workers of a torture, and the queue that they share."""
