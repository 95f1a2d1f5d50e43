"""The torture's producers and workers, and the store that they share."""
