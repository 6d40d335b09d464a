"""The program on the gateway: registry, selection, rounds, aggregation, store."""
