"""``tinyfleet bench``: one file a command."""
