"""What others send: bounded before anything acts on it, escaped before anybody reads it."""
