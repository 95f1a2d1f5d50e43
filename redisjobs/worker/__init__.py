"""A worker: a face, one run of it, and the parts of that."""
