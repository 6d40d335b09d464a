"""The fleet's own certificate authority: a directory with its keys, its index and its revocation list."""

from tinyfleet.coordinator.fleet.authority.authority import Authority, Issued
from tinyfleet.coordinator.fleet.authority.errors import AuthorityError
from tinyfleet.coordinator.fleet.authority.index import CertificateRow, CertificateState
from tinyfleet.coordinator.fleet.authority.renewals import answer, renew_own

__all__ = ["Authority", "AuthorityError", "CertificateRow", "CertificateState", "Issued", "answer", "renew_own"]
