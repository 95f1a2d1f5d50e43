"""One job: its handler, its time limit, its middleware, its threads and processes."""
