"""A whole fleet on one machine, from boards' limits to exported files."""
