"""What all tests share: one thread an engine, so that tests do not fight over cores."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# A background job of a shell without job control (cron, nohup in a script) ignores SIGINT from birth, and so would
# every child that is to be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example may take as long as it likes.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
