"""The contract of drivers, as tests to run on one; docs/drivers.md says how."""
