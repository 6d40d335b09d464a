"""How a task fits a board: levers, their memory and their time."""
