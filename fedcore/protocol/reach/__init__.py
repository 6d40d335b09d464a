"""Whether the other side is reached, and why not: causes, what a broker announces, one warning for each outage."""
