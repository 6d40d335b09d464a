"""The command line, the demo and the simulator: whatever puts the other packages together."""
