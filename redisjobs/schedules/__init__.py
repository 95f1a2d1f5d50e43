"""Rules of time: the moments that a cron text or a fixed interval names. Pure; `scheduler/` fires them."""
