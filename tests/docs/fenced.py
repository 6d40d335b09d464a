"""The commands that the documents show, in fenced blocks and in running text, and how each is to be run."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNNABLE = ("sh", "console")
_FENCE = re.compile(r"^ {0,3}```(\w*)\s*$")
_MARK = re.compile(r"^<!-- run: (?P<how>fast|slow|root|no)(?:, (?P<where>[a-z ]+))?(?:; (?P<reason>.+))? -->$")
_INLINE = re.compile(r"(?<!`)`((?:tinyfleet|coordinator|edge-agent|make|pytest) [^`]+)`(?!`)", re.S)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. ``how`` says when it is run: ``fast``, ``slow``, ``root`` or ``no`` with a ``reason``."""

    document: Path
    line: int
    language: str
    text: str
    how: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    ran = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = (
        ran.stdout.split("\n") if ran.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.glob("**/*.md")]
    )
    return [ROOT / name for name in names if name and ".venv" not in name and (ROOT / name).exists()]


def blocks(document: Path) -> list[Block]:
    """Its fenced blocks. The mark stands on the line before a block, as an HTML comment."""
    found, lines = [], document.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        before = lines[number - 1].strip() if number else ""
        mark = _MARK.match(before)
        end = next(i for i in range(number + 1, len(lines)) if _FENCE.match(lines[i]))
        text = "\n".join(lines[number + 1 : end]) + "\n"
        how, where, reason = (mark["how"], mark["where"] or "", mark["reason"] or "") if mark else ("", "", "")
        found.append(Block(document, number + 1, fence[1], text, how, where, reason))
        number = end + 1
    return found


def inline(document: Path) -> list[str]:
    """Commands in running text, outside fenced blocks, their line breaks undone."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(found.split()) for found in _INLINE.findall(text)]
