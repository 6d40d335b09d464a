"""Makes what the tests share importable from every room: pytest puts a conftest's folder on the path."""
