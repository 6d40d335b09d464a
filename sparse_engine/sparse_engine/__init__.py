"""Sparse training on the CPU: whose time and memory follow the number of weights that are left."""

from sparse_engine._core import LANES
from sparse_engine.file.stored_model import StoredModel, dump, load_bytes
from sparse_engine.inference import Inference, load
from sparse_engine.layers import Layer, Model, ModelError, Op
from sparse_engine.network import Network
from sparse_engine.program.values import Cache
from sparse_engine.step_options import StepOptions

__all__ = [
    "LANES",
    "Cache",
    "Inference",
    "Layer",
    "Model",
    "ModelError",
    "Network",
    "Op",
    "StepOptions",
    "StoredModel",
    "dump",
    "load",
    "load_bytes",
]
