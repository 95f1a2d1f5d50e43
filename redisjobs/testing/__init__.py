"""For those who test: the contract that each driver keeps, as tests to run on one; docs/drivers.md says how."""
