"""What the views and the actions of the page share: a queue, a visit, who may do what, acts on many jobs."""
