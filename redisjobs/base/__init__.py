"""Helpers that every module may import: checks of arguments, text, logging, forks, the event loop."""
