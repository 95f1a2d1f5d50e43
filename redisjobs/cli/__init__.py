"""The command line: arguments, tables, exit codes; one file a command."""
