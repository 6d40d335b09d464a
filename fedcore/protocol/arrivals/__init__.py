"""What has arrived and waits to be handled: bounded, and shared fairly by those who sent it."""
