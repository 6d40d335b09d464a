"""Brokers that are started from here: Mosquitto as a child, and one built in."""
