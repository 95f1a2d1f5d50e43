"""The command line: arguments, tables and exit codes. Each command has its own module."""
