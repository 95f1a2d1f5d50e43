"""What the async and the sync queue share: the registry, pushing, waiting for results."""
