"""Schedules: the rules, what the store keeps of them, who fires them, and how they are made at run time."""
