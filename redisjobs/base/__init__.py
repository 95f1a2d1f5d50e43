"""What every module may use: arguments, durations, loggers, forks, the event loop."""
