"""The process that trains, and the supervisor's hold on it."""
