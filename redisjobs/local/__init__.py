"""What runs on one machine: a server for development, and the demo."""
