"""Model architectures as graphs: one description for engines, accounting and exporters."""
