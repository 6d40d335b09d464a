"""The file that the tables are in: its connection, its schema with what upgrades it, a second copy of it."""
