"""One queue of a worker: claims, leases, settlements, and the worker's own lease."""
