"""Keys, tokens and passwords in the files that git tracks, by detect-secrets.

Without its detectors of random-looking strings: hashes and recorded bytes are what this tree is full of. Passwords
that tests make up are none, and neither is what fuzzing keeps of random bytes.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.audit.findings import Outcome, Part

NAME = "secrets in the tree"
_RANDOM_LOOKING = {"Base64HighEntropyString", "HexHighEntropyString"}
_RANDOM_BYTES = "tests/fuzz/corpus/"
_MADE_UP = ("tests/", "Secret Keyword")


def of_tree(root: Path) -> Part:
    """Of every tracked file. A line that is meant to look so says ``pragma: allowlist secret``."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        return Part(NAME, Outcome.NOT_ASKED, "this is no git checkout", [listed.stderr.strip()])
    if not finds_a_planted_one():
        return Part(NAME, Outcome.NOT_ASKED, "a planted key was not found: nothing is known of the others")
    files = [root / name for name in listed.stdout.split("\0") if name]
    files = [file for file in files if file.is_file() and _RANDOM_BYTES not in file.as_posix()]
    found = [
        line for line in of_files(files, root) if not (line.startswith(_MADE_UP[0]) and line.endswith(_MADE_UP[1]))
    ]
    outcome = Outcome.FOUND if found else Outcome.CLEAN
    return Part(NAME, outcome, f"{len(found)} in {len(files)} files", found)


def finds_a_planted_one() -> bool:
    """Whether a file with a private key in it is found, as any would have to be."""
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder, "planted.pem")
        planted.write_text("-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE\n", encoding="utf-8")
        return bool(of_files([planted], Path(folder)))


def of_files(files: list[Path], root: Path) -> list[str]:
    """One line a finding; never the secret itself."""
    from detect_secrets import SecretsCollection  # imported here: only the audit's own environment has it
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.settings import transient_settings

    detectors = [kind.__name__ for kind in get_mapping_from_secret_type_to_class().values()]
    settings = {"plugins_used": [{"name": name} for name in sorted(set(detectors) - _RANDOM_LOOKING)]}
    secrets = SecretsCollection(root=str(root))
    with transient_settings(settings):
        for file in files:
            secrets.scan_file(str(file.relative_to(root)))
        return [f"{name}:{secret.line_number}: {secret.type}" for name, secret in secrets]
