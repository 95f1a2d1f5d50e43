"""The relay, which pushes the rows of a database's outbox."""
