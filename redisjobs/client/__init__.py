"""The code that the async and the sync queue share: handlers, pushes, results, an operator's calls."""
