"""`redisjobs torture`: workers run while a fault injector, the nemesis, breaks things; then we check every job."""
