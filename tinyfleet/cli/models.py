"""``tinyfleet model``: look at a model before a run trains it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyfleet.cli.output import Json, emit_facts, emit_json, emit_table
from tinyfleet.fedcore.errors import ConfigError

if TYPE_CHECKING:
    from tinyfleet.fedcore.models.graph import Graph, Node
    from tinyfleet.importing import Verified

app = typer.Typer(help="Import models, and look at them.", no_args_is_help=True)


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The model.")],
    shape: Annotated[
        str, typer.Option("--input-shape", help="Where the file leaves sides open: 3,96,96 (channels first).")
    ] = "",
    as_json: Json = False,
) -> None:
    """Read an ONNX file as a run would (model.file), compare it with ONNX Runtime, and show what it found."""
    from tinyfleet.importing import import_verified
    from tinyfleet.submission import label_of

    verified = import_verified(file, label_of(file), _shape(shape))
    facts = _facts(verified)
    rows = [_row(verified.imported.graph, node) for node in verified.imported.graph.nodes]
    if as_json:
        emit_json(facts | {"layers": rows, "blocks": verified.imported.graph.blocks})
        return
    emit_facts((name.replace("_", " "), value) for name, value in facts.items())
    emit_table(
        ("layer", "kind", "inputs", "output", "parameters", "FLOPs", "block"),
        [
            (
                row["name"],
                row["kind"],
                ", ".join(row["inputs"]),
                "x".join(map(str, row["output"])),
                f"{row['parameters']:,}",
                f"{row['flops']:,}",
                row["block"] or "",
            )
            for row in rows
        ],
        empty="no layer",
    )


def _facts(verified: Verified) -> dict[str, Any]:
    from tinyfleet.fedcore.models.described.document import digest

    imported = verified.imported
    graph = imported.graph
    return {
        "name": graph.name,
        "written_by": imported.producer,
        "input_shape": graph.input_shape,
        "classes": graph.classes,
        "channels_last_in_the_file": imported.channels_last,
        "left_to_the_loss": imported.ending,
        "parameters": graph.parameter_count(),
        "flops": graph.flops(),
        "prunable_weights": sum(graph.params[name].size for name in graph.maskable),
        "difference_from_onnx_runtime": verified.difference,
        "compared_with_engine": verified.engine,
        "sha256_of_the_graph": digest(graph),
    }


def _row(graph: Graph, node: Node) -> dict[str, Any]:
    sizes = {name: spec.size for name, spec in graph.params.items() if name.rpartition(".")[0] == node.name}
    blocks = [index for index, block in enumerate(graph.blocks, 1) if node.name in block]
    active = graph.params[node.weight].size if node in graph.weighted else 0
    return {
        "name": node.name,
        "kind": str(node.op),
        "inputs": node.inputs,
        "output": graph.shapes[node.name],
        "parameters": sum(size for name, size in sizes.items() if "running_" not in name),
        "flops": 2 * graph.multiply_adds(node, active) if active else 0,
        "block": blocks[0] if blocks else None,
    }


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(side) for side in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(f"--input-shape is {text!r}; give channels and sides: 3,96,96") from None
