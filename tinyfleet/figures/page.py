"""How a document holds figures: each stands beside a comment that names it, and ``make docs`` writes it there.

In a sentence the comment follows the figure: ``1.9<!-- lead last 0.1 -->``. A table stands between two comments:
``<!-- table accuracy cpu-cifar10 -->`` and ``<!-- end -->``. The comment's first word is a figure of this package,
the others are its arguments, quoted where one has a space. A test fails where a page differs from what they give.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

from tinyfleet.fedcore.errors import ConfigError

Figure = Callable[..., str]

_INLINE = re.compile(r"(?P<value>[^\s(<>|]+)<!-- (?P<call>(?!table |end )[^>]+?) -->")
_TABLE = re.compile(r"(?P<head><!-- table (?P<call>[^>]+?) -->\n)(?P<body>.*?)(?P<tail><!-- end -->)", re.DOTALL)


def written(text: str, figures: Mapping[str, Figure]) -> str:
    """``text`` with every figure as it is now. Raises ``ConfigError`` for a comment that names none."""

    def inline(match: re.Match[str]) -> str:
        return f"{computed(match['call'], figures)}<!-- {match['call']} -->"

    def table(match: re.Match[str]) -> str:
        return f"{match['head']}{computed(match['call'], figures).rstrip()}\n{match['tail']}"

    return _INLINE.sub(inline, _TABLE.sub(table, text))


def computed(call: str, figures: Mapping[str, Figure]) -> str:
    """One figure. Raises ``ConfigError`` where there is none of this name, or not with these arguments."""
    name, *arguments = shlex.split(call)
    if name not in figures:
        raise ConfigError(f"figure {name!r} is unknown; there are {', '.join(sorted(figures))}")
    try:
        return figures[name](*arguments)
    except (TypeError, KeyError, LookupError, ValueError) as error:
        raise ConfigError(f"figure {call!r} cannot be computed: {type(error).__name__}: {error}") from error


def prose(text: str) -> str:
    """What is left of a document without figures, tables, code and links' targets: words that nothing computes."""
    text = _INLINE.sub("", _TABLE.sub("", text))
    text = re.sub(r"```.*?```|`[^`]*`|(?m:^    [^\n]*$)", "", text, flags=re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", text)
