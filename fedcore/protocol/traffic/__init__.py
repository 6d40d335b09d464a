"""What comes and goes over one connection: bounded, and shared fairly by those who sent it."""
