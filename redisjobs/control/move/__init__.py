"""The move of a queue to another store."""
