"""What the coordinator makes of a round's mean before it is the next state."""
