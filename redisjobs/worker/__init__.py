"""Runs the jobs of one queue or several, in slots that the queues share.

Follow a job through this package:

1. `source/`: an exchange (`exchanger`, sent by `batcher`) or the blocking read (`fetcher`) brings its lease;
   `claims` decides when. `leases` holds the job, and `dispatcher` gives it to a slot.
2. `source/slots`: the slot is a task. It begins the `running/execution` of the job.
3. `running/`: `execution` reads the job, and `handler_run` calls its handler: in the event loop (`contexts`), in a
   thread (`threads`) or in a process (`handler_pool`).
4. `model/outcome` decides by the handler's outcome how the job is settled.
5. `source/settler` keeps the settlement for the next exchange, and handles the answer.

`source/stepper` decides what a source does next. `worker` has the class `Worker`, `run` is one run of it, and
`supervisor` keeps worker processes running.
"""
