"""Every command that a document shows is run here, or is at least one that its program takes."""

from __future__ import annotations

import re
import shlex

import click
import pytest
import typer

from tests.docs import fenced
from tests.docs.copied_tree import run_in_copy
from tinyfleet.cli.app import app
from tinyfleet.coordinator import cli as coordinator_cli
from tinyfleet.edge_agent import cli as agent_cli

BLOCKS = [block for document in fenced.documents() for block in fenced.blocks(document)]
COMMANDS = [block for block in BLOCKS if block.language in fenced.RUNNABLE]
INLINE = sorted(
    {
        (path.relative_to(fenced.ROOT).as_posix(), text)
        for path in fenced.documents()
        for text in fenced.inline(path)
    }
)


def marked(how):
    return [pytest.param(block, id=str(block)) for block in COMMANDS if block.how == how]


def test_there_are_commands():
    assert len(COMMANDS) > 10
    assert len(INLINE) > 40


def test_every_block_says_what_it_is():
    """A block without a language would be passed over, and so would a command without a mark."""
    for block in BLOCKS:
        assert block.language, f"{block}: say what it is: sh, toml, python, mermaid, text"
    for block in COMMANDS:
        assert block.how, f"{block}: how is it run? Put <!-- run: fast|slow|root|no; reason --> before it"
        assert block.how != "no" or len(block.reason) > 10, f"{block}: why is it not run?"


def test_no_command_hides_in_an_indented_block():
    for document in fenced.documents():
        text = re.sub(r"^ {0,3}```.*?^ {0,3}```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
        hidden = re.findall(r"^ {4}(?:make|pip|tinyfleet|coordinator|edge-agent|python|sudo|git) .*$", text, re.M)
        assert not hidden, f"{document.name}: fence {hidden}"


@pytest.mark.parametrize("block", marked("fast"))
def test_a_fast_block(block, tmp_path):
    run_in_copy(block.text, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", marked("slow"))
def test_a_slow_block(block, tmp_path):
    run_in_copy(block.text, tmp_path)


# -- in running text ----------------------------------------------------------------------


@pytest.mark.parametrize(("document", "command"), INLINE)
def test_a_command_in_running_text_is_taken(document, command):
    """Parsed by the program's own parser: a name or an option that it does not know fails."""
    check(shlex.split(command, comments=True))


def synopses():
    for block in BLOCKS:
        if block.language == "text":
            for line in block.text.splitlines():
                words = re.split(r"\s{2,}", line.strip())[0]
                if re.match(r"(tinyfleet|coordinator|edge-agent) ", words):
                    yield pytest.param(words, id=f"{block}: {words}")


@pytest.mark.parametrize("line", list(synopses()))
def test_a_synopsis_names_what_there_is(line):
    program, *words = line.split()
    names = [word for word in words if re.fullmatch(r"[a-z][a-z|-]*", word)]
    for last in names[-1].split("|"):
        path = [*names[:-1], last]
        if program == "tinyfleet":
            assert _tinyfleet(path)[0] is not None
        else:
            assert path[0] in _actions(program), line


def check(words):
    program, rest = words[0], words[1:]
    if program == "tinyfleet":
        command, left = _tinyfleet(rest)
        if isinstance(command, click.Group):
            assert not left, f"{command.name} has no {left}"
            return
        if command.name in {"coordinator", "agent"}:
            return
        context = click.Context(command, info_name=command.name)
        parser = command.make_parser(context)
        if "--" in left:
            left = left[: left.index("--")]
        parser.parse_args(list(left))
    elif program == "make":
        targets = set(re.findall(r"^([a-z0-9-]+):", (fenced.ROOT / "Makefile").read_text(), re.M))
        asked = [word for word in rest if "=" not in word and not word.startswith("-")]
        assert asked
        assert set(asked) <= targets, f"make has no {asked}"
    elif program == "pytest":
        for word in rest:
            if "/" in word:
                assert (fenced.ROOT / word.split("::")[0]).exists(), word
    else:
        action = rest[0]
        known = _actions(program)
        assert action in known, f"{program} has no {action}"
        options = {option for entry in known[action]._actions for option in entry.option_strings}
        for word in rest[1:]:
            assert not word.startswith("--") or word.split("=")[0] in options, f"{program} {action} has no {word}"


def _actions(program):
    parser = {"coordinator": coordinator_cli, "edge-agent": agent_cli}[program]._parser()
    return next(action.choices for action in parser._actions if hasattr(action, "choices") and action.choices)


def _tinyfleet(words):
    """The command that ``words`` lead to, and what is left of them."""
    command = typer.main.get_command(app)
    left = list(words)
    while isinstance(command, click.Group) and left:
        if left[0].startswith("-"):
            assert left[0] in {"--help", "--debug"}, f"tinyfleet has no option {left[0]}"
            left.pop(0)
            continue
        found = command.commands.get(left[0])
        assert found is not None, f"{command.name} has no command {left[0]}"
        command, left = found, left[1:]
    return command, left
