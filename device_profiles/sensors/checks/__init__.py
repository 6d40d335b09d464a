"""The sensors. Every module here is one, called as its file is, and holds it as ``SENSOR``."""
