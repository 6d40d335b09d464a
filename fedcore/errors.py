"""Errors that both sides share.

TinyfleetError
├── ConfigError       a file, option or message has a bad value
│   ├── Unavailable   it names something that this machine does not have, or cannot use
│   └── UnsupportedLayer  a model holds a layer that a part of tinyfleet does not know
├── CodecError        a blob is damaged or lies about itself
│   ├── UnknownMask   a blob refers to a mask that is not held here
│   └── Unauthentic   a message is not signed by who it says it is of
├── ResultError       a device's result does not belong to the task
│   └── AggregationError  it would push a sum out of the range in which sums are exact
├── DataError         a data set is missing or malformed
└── TransportError    the broker cannot be reached or refused something
"""


class TinyfleetError(Exception):
    """Base of every error that is reported to a person: says what was wrong and what to do."""

    exit_code = 1


class ConfigError(TinyfleetError):
    """A configuration value is wrong; the message names it and the remedy."""

    exit_code = 2


class Unavailable(ConfigError):
    """A method, a model or the like is not known here, or the distribution that adds it is broken."""


class UnsupportedLayer(ConfigError):
    """A layer is of a kind that ``consumer`` does not know: it is refused, never passed over."""

    def __init__(self, kind: str, layer: str, consumer: str, remedy: str = "") -> None:
        what = f"layer {layer!r} is of kind {str(kind)!r}, which {consumer} does not know"
        super().__init__(f"{what}; {remedy or 'build the model without it'}")
        self.kind, self.layer, self.consumer = kind, layer, consumer


class CodecError(TinyfleetError):
    """A blob is truncated, corrupted, too large, or its header does not match its content."""

    exit_code = 3


class UnknownMask(CodecError):
    """A blob was encoded against a mask that the receiver does not hold."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"mask {digest[:12]} is not held here; ask for the blob with its mask")
        self.digest = digest


class Unauthentic(CodecError):
    """A message is not signed by who it says it is of: it is nobody's fault but a stranger's."""


class ResultError(TinyfleetError):
    """A result has the wrong names, shapes or numbers for its task."""

    exit_code = 4


class AggregationError(ResultError):
    """A weighted sum would overflow its fixed-point range."""

    exit_code = 5


class DataError(TinyfleetError):
    """A data set cannot be found or read."""

    exit_code = 6


class TransportError(TinyfleetError):
    """The broker cannot be reached, or it refused a connection or a publish."""

    exit_code = 7
