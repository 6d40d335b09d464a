"""What the coordinator keeps on disk: SQLite and blobs."""
