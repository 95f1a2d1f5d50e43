"""Tests for authors of drivers: the contract that each driver has to pass. See docs/drivers.md."""
