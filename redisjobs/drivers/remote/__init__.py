"""What drivers share whose store is a server: pools of connections, shared round trips, the server's clock."""
