"""`redisjobs demo`: hash every file of a directory in two worker processes, kill one, lose nothing."""
