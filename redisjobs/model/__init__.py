"""A job and what is said of it: options, wire format, outcome, and the values that go to a driver."""
