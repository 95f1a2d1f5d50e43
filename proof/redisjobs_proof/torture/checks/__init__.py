"""The checks of a torture: each compares the recordings with a promise. All are pure functions."""
