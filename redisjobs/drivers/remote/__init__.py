"""What drivers share whose store is a server: pools of connections, heartbeats, shared round trips, the clock."""
