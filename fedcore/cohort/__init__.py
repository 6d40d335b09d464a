"""All results of one step side by side: what each is like, which may be counted, and how much of each."""
