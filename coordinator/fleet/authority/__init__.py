"""The fleet's own certificate authority: a directory with its keys, its index and its revocation list."""

from tinyfleet.coordinator.fleet.authority.authority import Authority, AuthorityError, Issued
from tinyfleet.coordinator.fleet.authority.index import CertificateRow, CertificateState
from tinyfleet.coordinator.fleet.authority.renewals import answer

__all__ = ["Authority", "AuthorityError", "CertificateRow", "CertificateState", "Issued", "answer"]
