"""What must hold in the recordings of a torture. Pure."""
