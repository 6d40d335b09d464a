"""Masks, layer densities, adjustment schedules and streaming top-K selection."""
