"""Sparse training on the CPU: whose time and memory follow the number of weights that are left."""

from sparse_engine.layers import Layer, Model, ModelError, Op
from sparse_engine.network import Network, Step

__all__ = ["Layer", "Model", "ModelError", "Network", "Op", "Step"]
