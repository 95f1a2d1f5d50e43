"""The command line. Only in here is the environment read."""
