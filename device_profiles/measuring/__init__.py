"""Measures a board: rates, heat under load."""
