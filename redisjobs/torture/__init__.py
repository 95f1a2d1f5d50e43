"""`redisjobs torture`: producers, workers and a nemesis run together; a checker proves that nothing was lost."""
