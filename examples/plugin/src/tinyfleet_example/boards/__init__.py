"""Profiles, a TOML file each, called as their entry points."""
