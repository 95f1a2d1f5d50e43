"""What proves redisjobs: the contract of a driver, and the torture."""
