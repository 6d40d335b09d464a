"""What a model can be written as: one file a format, and the table of them all."""
