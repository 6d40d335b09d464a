"""Federated pruning methods: one file a method, coordinator half and device half; ``parts`` is what they share."""
