"""The ``tinyfleet`` command line."""
