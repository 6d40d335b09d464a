"""``python -m sparse_engine MODEL.tfse --input x.npy``: predictions, and how long one takes."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sparse_engine.file.sections import Floats
from sparse_engine.inference import Inference, load
from sparse_engine.layers import ModelError

WARM_UP_RUNS = 3


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 where the model or the samples cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m sparse_engine", description="Predict with an exported model.")
    parser.add_argument("file", type=Path, metavar="MODEL.tfse")
    parser.add_argument(
        "--input", type=Path, required=True, metavar="X.npy", help="float32, normalised: (N, C, ...) or one sample"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20, help="latency is the median of so many, one sample each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        model = load(options.file, options.threads)
        x = np.load(options.input, allow_pickle=False)
        answer = predicted(model, x[None] if x.shape == model.input_shape else x, options.runs)
    except (ModelError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        sys.stdout.writelines(f"{index}\t{of}\n" for index, of in enumerate(answer["predictions"]))
        sys.stdout.write(f"{answer['latency_ms']:.3f} ms a sample, {answer['threads']} threads\n")
    return 0


def predicted(model: Inference, x: Floats, runs: int) -> dict[str, Any]:
    """Classes and outputs of all samples, and the time of the first alone."""
    if not len(x):
        raise ModelError("there is no sample; give at least one")
    logits = model.predict(x)
    times = []
    for _ in range(max(1, runs) + WARM_UP_RUNS):
        start = time.perf_counter()
        model.predict(x[:1])
        times.append(time.perf_counter() - start)
    return {
        "predictions": logits.argmax(axis=1).tolist(),
        "logits": logits.tolist(),
        "latency_ms": statistics.median(times[WARM_UP_RUNS:]) * 1e3,
        "threads": model.threads,
        "metadata": dict(model.metadata),
    }


if __name__ == "__main__":
    sys.exit(main())
