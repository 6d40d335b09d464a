"""``python -m tinyfleet.figures docs README.md``: write the figures into every document that is named."""

from __future__ import annotations

import sys
from pathlib import Path

from tinyfleet.figures.page import written
from tinyfleet.figures.registry import figures


def main(arguments: list[str]) -> None:
    """The first argument is the folder of documents, all of whose pages are written; others are single files."""
    folder, *others = (Path(argument) for argument in arguments)
    known = figures(folder / "benchmarks")
    for path in [*sorted(folder.glob("*.md")), *others]:
        text = path.read_text(encoding="utf-8")
        new = written(text, known)
        if new != text:
            path.write_text(new, encoding="utf-8")
            sys.stderr.write(f"wrote {path}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
