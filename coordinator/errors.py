"""Errors of the coordinator alone. Each that ends the program has its exit code in docs/coordinator.md."""

from tinyfleet.fedcore.errors import TinyfleetError


class StateInUse(TinyfleetError):
    """Another coordinator holds the state directory."""

    exit_code = 10


class StoreError(TinyfleetError):
    """The state directory cannot be read or written: damaged, full, or from a newer version."""

    exit_code = 11


class DamagedBlob(TinyfleetError):
    """A blob is missing from the state directory, or no longer what its name says."""

    exit_code = 14


class UnknownRun(TinyfleetError):
    """There is no run of that id."""

    exit_code = 12


class IllegibleRun(TinyfleetError):
    """The row of a run in the state directory is damaged."""

    exit_code = 15


class UnknownDevice(TinyfleetError):
    """There is no device of that name."""

    exit_code = 13
