"""All that reads what others wrote."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets.agent import AGENT
from tests.fuzz.targets.certificates import CERTIFICATES
from tests.fuzz.targets.data import DATA
from tests.fuzz.targets.models import MODELS
from tests.fuzz.targets.onnx_files import ONNX_FILES
from tests.fuzz.targets.settings import SETTINGS
from tests.fuzz.targets.text import TEXT
from tests.fuzz.targets.wire import WIRE

TARGETS: dict[str, Target] = {
    target.name: target for target in (*WIRE, *AGENT, *SETTINGS, *DATA, *CERTIFICATES, *MODELS, *ONNX_FILES, *TEXT)
}
