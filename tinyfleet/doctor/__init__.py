"""What is here, what is missing, what to do."""
