"""How the page shows numbers, times, JSON, tracebacks and plots; pure."""
