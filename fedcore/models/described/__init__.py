"""Models that come as data: the document that travels in a run, the list of layers that a person writes."""
