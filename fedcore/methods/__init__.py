"""Federated pruning methods: one file a method, coordinator half and device half together."""
