"""The authority's own error; docs/security-ca.md names its exit code."""

from __future__ import annotations

from tinyfleet.fedcore.errors import TinyfleetError


class AuthorityError(TinyfleetError):
    """There is no authority, or the state of a certificate forbids what was asked."""

    exit_code = 16
