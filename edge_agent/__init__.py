"""The program on the board: a tiny supervisor, and a worker process that trains under limits."""
