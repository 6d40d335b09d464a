"""A demo's result with made-up numbers, for what only draws it."""

from __future__ import annotations

from typing import Any

from tests.tinyfleet.rows import step_row, task_row
from tinyfleet.demo import result as demo_result


def example_result() -> dict[str, Any]:
    tiny = [step_row(0, 0, stage="bn_statistics", test_accuracy=None, loss=None)]
    tiny += [step_row(1 + r, r, test_accuracy=0.8 + r / 50) for r in range(5)]
    dense = [step_row(r, r, bytes_up=5000.0, bytes_down=6000.0, test_accuracy=0.85 + r / 50) for r in range(5)]
    tasks = [task_row(s.step, f"agent-{i}", peak_rss_bytes=200_000_000 + i) for s in tiny for i in range(4)]
    return {
        "duration_s": 80.0, "method": "fedtiny", "density": 0.05, "rounds": 5,
        "accuracy": {"dense": 0.95, "tiny": 0.93},
        "bytes": {
            "up_per_device_round": 100.0, "down_per_device_round": 200.0, "dense_up_per_device_round": 5000.0,
            "dense_down_per_device_round": 6000.0, "steady_rounds": 3, "mean_up_per_device_step": 120.0,
            "mean_down_per_device_step": 230.0,
        },
        "round_overhead_s": {"median": 0.2, "max": 1.5},
        "agents": [
            {"name": f"agent-{i}", "idle_rss_mb": 25.0, "peak_rss_mb": 230.5, "engine": "torch", "samples": 900,
             "idle_after_rss_mb": 25.5, "supervisor_peak_rss_mb": 26.0}
            for i in range(4)
        ],
        "coordinator": {"idle_rss_mb": 50.0, "peak_rss_mb": 70.0, "idle_after_rss_mb": 60.0,
                        "engine_process_peak_rss_mb": 300.0},
        "exports": [
            {"format": "tflite-int8", "precision": "int8", "path": "m.tflite", "file_bytes": 12345,
             "max_rel_error": 0.03, "argmax_agreement": 0.99, "accuracy": 0.92, "latency_ms": 0.1,
             "runtime": "litert"}
        ],
        "broker": "mosquitto", "data": "mnist5k", "seed": 0,
        "interruptions": ["agent-1 ended with signal SIGKILL"],
        "losses": [{"run": "r", "step": 2, "device": "agent-<1>", "reason": "offline & gone"}],
        "layers": [{"name": "conv1", "active": 50, "total": 1000, "density": 0.05},
                   {"name": "conv2", "active": 500, "total": 10000, "density": 0.05}],
        "runs": {"dense": demo_result.round_rows(dense, []), "tiny": demo_result.round_rows(tiny, tasks)},
    }  # fmt: skip
