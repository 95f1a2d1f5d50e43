"""Runs jobs: those of one queue or several, in slots that these share.

Follow a job through it:

1. `source/`: an exchange (`exchanger`, sent by `batcher`) or the blocking read (`fetcher`) brings its lease;
   `claims` says when. `leases` holds the job, and `dispatcher` gives it to a slot.
2. `source/slots`: the slot, which is a task, begins the `running/execution` of the job.
3. `running/`: `execution` reads the job, and `handler_run` calls its handler: in the event loop (`contexts`), in a
   thread (`threads`) or in a process (`handler_pool`).
4. `model/outcome` decides by the handler's outcome how the job is settled.
5. `source/settler` keeps that for the next exchange, and takes the answer.

`source/stepper` decides what a source does next. `worker` is the face, `run` one run of it, and `supervisor` keeps
worker processes running.
"""
