"""Makes docs/configuration.md from the settings' definitions: ``python -m tinyfleet.cli.configuration FILE``."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import tokenize
import types
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

HEAD = """\
# Configuration

Made from the definitions in the source by `make docs`; a test holds the two together. Every file is
TOML, validated once when it is read: an unknown key is an error that names the nearest known one.
"""


def reference() -> str:
    """The whole document."""
    from tinyfleet.coordinator.config import CoordinatorConfig
    from tinyfleet.edge_agent.config import AgentConfig
    from tinyfleet.fedcore.methods.registry import METHODS
    from tinyfleet.fedcore.run_spec import RunSpec

    parts = [HEAD]
    parts += ["## RUN.toml", "", "What `tinyfleet run submit` and `tinyfleet simulate` read.", ""]
    parts += _sections(RunSpec, "")
    parts += ["## [method] by method", "", "The keys of `[method]` in RUN.toml; `name` picks the method.", ""]
    for method in METHODS:
        parts += [f'### name = "{method.name}"', "", _first_line(method), "", *_table(method.settings_type), ""]
    parts += ["## agent.toml", "", "What `edge-agent run --config` reads.", ""]
    parts += _sections(AgentConfig, "")
    parts += ["## coordinator.toml", "", "What `coordinator run --config` reads.", ""]
    parts += _sections(CoordinatorConfig, "")
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the document to the file that is named, or to standard output."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given:
        Path(given[0]).write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


# -- sections ---------------------------------------------------------------------------


def _sections(kind: type[Struct], prefix: str) -> list[str]:
    """A table of one struct's plain fields, then a section for each struct inside."""
    lines = [*_table(kind), ""]
    for name, inner in _inner(kind):
        lines += [f"### [{prefix}{name}]", "", _first_line(inner), "", *_sections(inner, f"{prefix}{name}.")]
    return lines


def _inner(kind: type[Struct]) -> Iterator[tuple[str, type[Struct]]]:
    for name, annotation in _annotations(kind).items():
        bare = _bare(annotation)
        if isinstance(bare, type) and issubclass(bare, Struct):
            yield name, bare


def _table(kind: type[Struct]) -> list[str]:
    notes = _notes(kind)
    inner = {name for name, _ in _inner(kind)}
    rows = [
        f"| `{name}` | {_type_text(annotation)} | {_default_text(kind, name)} | {notes.get(name, '')} |"
        for name, annotation in _annotations(kind).items()
        if name not in inner
    ]
    if not rows:
        return []
    return ["| key | type | default | meaning |", "|---|---|---|---|", *rows]


def _annotations(kind: type[Struct]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in msgspec.structs.fields(kind)}


def _default_text(kind: type[Struct], name: str) -> str:
    item = next(item for item in msgspec.structs.fields(kind) if item.name == name)
    if item.default_factory is not msgspec.NODEFAULT:
        value = item.default_factory()
    elif item.default is not msgspec.NODEFAULT:
        value = item.default
    else:
        return "(required)"
    if value is None:
        return "(none)"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return msgspec.json.encode(value).decode().replace(",", ", ")


# -- types ------------------------------------------------------------------------------


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _type_text(annotation: Any) -> str:
    """A type as a person reads it: choices, bounds, lists."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [text for meta in arguments[1:] if isinstance(meta, Meta) for text in _bounds(meta)]
        return ", ".join([_type_text(arguments[0]), *bounds])
    if origin is Literal:
        return " \\| ".join(f"`{_toml(choice)}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_text(one) for one in arguments if one is not type(None))
    if origin in (tuple, list):
        return f"list of {_type_text(arguments[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, Struct)):
        return "table"
    return {str: "text", int: "integer", float: "number", bool: "true \\| false"}.get(annotation, str(annotation))


_UNBOUNDED = (1 << 31) - 1  # what keeps numbers within their type is no bound to a person


def _bounds(meta: Meta) -> Iterator[str]:
    for value, sign in ((meta.ge, "≥"), (meta.gt, ">"), (meta.le, "≤"), (meta.lt, "<")):
        if value is not None and abs(value) < _UNBOUNDED:
            yield f"{sign} {value:g}"


# -- meanings ---------------------------------------------------------------------------


def _first_line(kind: type[Any]) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]


def _notes(kind: type[Struct]) -> dict[str, str]:
    """Field -> meaning: its ``Meta(description=)``, else the comment beside or above it."""
    notes: dict[str, str] = {}
    for base in reversed(
        [base for base in kind.__mro__ if issubclass(base, Struct) and base.__module__ != "msgspec"]
    ):
        notes |= _comments(base)
    for name, annotation in _annotations(kind).items():
        for meta in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
            if isinstance(meta, Meta) and meta.description:
                notes[name] = meta.description
    return {name: note.replace("|", "\\|") for name, note in notes.items()}


def _comments(kind: type[Any]) -> dict[str, str]:
    """Comments of a class's fields, from its source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    beside: dict[int, str] = {}
    above: dict[int, str] = {}
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ").rstrip()
            (above if token.line.lstrip().startswith("#") else beside)[token.start[0]] = text
    notes: dict[str, str] = {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101  inspect gave a class
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        found = [
            beside[line] for line in range(node.lineno, (node.end_lineno or node.lineno) + 1) if line in beside
        ]
        # A comment that ends with a full stop heads a group of fields, unless it is about this one alone.
        if not found and node.lineno - 1 in above and not _is_heading(above[node.lineno - 1]):
            found = [above[node.lineno - 1]]
        if found:
            notes[node.target.id] = " ".join(found)
    return notes


def _is_heading(comment: str) -> bool:
    return len(comment.split()) <= 4


if __name__ == "__main__":
    main()
