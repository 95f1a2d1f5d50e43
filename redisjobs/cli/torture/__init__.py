"""Every fault we can inject, at once, and a proof of what became of every job."""
