"""What pauses training: heat, power, battery, disk."""
