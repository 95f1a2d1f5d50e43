"""`redisjobs demo`: hash the files of a directory in two worker processes, kill one, lose nothing."""
