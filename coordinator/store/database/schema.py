"""The tables of ``coordinator.db``, and what makes each version of them from the one before."""

from __future__ import annotations

_FIRST = """
CREATE TABLE devices (
  device TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  public_key TEXT NOT NULL,
  enrolment TEXT NOT NULL,
  session TEXT NOT NULL,
  online INTEGER NOT NULL,
  last_seen REAL NOT NULL,
  profile TEXT NOT NULL,
  health TEXT NOT NULL DEFAULT '{}',
  samples INTEGER NOT NULL,
  engines TEXT NOT NULL,
  memory_limit_bytes INTEGER NOT NULL,
  idle_rss_bytes INTEGER NOT NULL DEFAULT 0,
  peak_rss_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE runs (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  run TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  method TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  step INTEGER NOT NULL DEFAULT 0,
  round INTEGER NOT NULL DEFAULT 0,
  rounds INTEGER NOT NULL,
  created REAL NOT NULL,
  started REAL,
  finished REAL,
  spec TEXT NOT NULL,
  stop_requested INTEGER NOT NULL DEFAULT 0,
  state_sha256 TEXT
) STRICT;

CREATE TABLE steps (
  run TEXT NOT NULL REFERENCES runs (run),
  step INTEGER NOT NULL,
  stage TEXT NOT NULL,
  round INTEGER NOT NULL,
  state TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  base_sha256 TEXT NOT NULL,
  started REAL NOT NULL,
  finished REAL,
  duration_s REAL,
  overhead_s REAL,
  expected INTEGER NOT NULL,
  results INTEGER NOT NULL DEFAULT 0,
  lost TEXT NOT NULL DEFAULT '[]',
  loss REAL,
  accuracy REAL,
  test_loss REAL,
  test_accuracy REAL,
  density REAL,
  PRIMARY KEY (run, step)
) STRICT;

CREATE TABLE tasks (
  run TEXT NOT NULL,
  step INTEGER NOT NULL,
  device TEXT NOT NULL REFERENCES devices (device),
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  micro_batch INTEGER NOT NULL DEFAULT 0,
  train_s REAL,
  task_s REAL,
  peak_rss_bytes INTEGER NOT NULL DEFAULT 0,
  bytes_up INTEGER,
  bytes_down INTEGER,
  engine TEXT NOT NULL DEFAULT '',
  retries INTEGER NOT NULL DEFAULT 0,
  done INTEGER NOT NULL DEFAULT 0,
  total INTEGER NOT NULL DEFAULT 0,
  result_sha256 TEXT,
  counted_in INTEGER,
  arrival INTEGER,
  PRIMARY KEY (run, step, device),
  FOREIGN KEY (run, step) REFERENCES steps (run, step)
) STRICT;

CREATE INDEX tasks_counted ON tasks (run, counted_in);
"""

_PARTS_OF_JOBS = """
ALTER TABLE tasks ADD COLUMN steps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN keep REAL NOT NULL DEFAULT 1.0;
ALTER TABLE tasks ADD COLUMN wall_s REAL;
ALTER TABLE steps ADD COLUMN left_out TEXT NOT NULL DEFAULT '{}';

CREATE TABLE plans (
  device TEXT PRIMARY KEY REFERENCES devices (device),
  run TEXT NOT NULL,
  step INTEGER NOT NULL,
  part TEXT NOT NULL,
  chosen INTEGER NOT NULL,
  steps INTEGER NOT NULL,
  whole_steps INTEGER NOT NULL,
  keep REAL NOT NULL,
  predicted_s REAL,
  basis TEXT NOT NULL,
  reason TEXT NOT NULL
) STRICT;
"""

_WORDS = """
ALTER TABLE tasks RENAME COLUMN steps TO local_steps;
ALTER TABLE tasks RENAME COLUMN keep TO activation_keep;
ALTER TABLE tasks RENAME COLUMN done TO local_steps_done;
ALTER TABLE tasks RENAME COLUMN total TO local_steps_total;
ALTER TABLE plans RENAME TO shares;
ALTER TABLE shares RENAME COLUMN steps TO local_steps;
ALTER TABLE shares RENAME COLUMN whole_steps TO whole_local_steps;
ALTER TABLE shares RENAME COLUMN keep TO activation_keep;
"""

_LEVERS = """
ALTER TABLE tasks ADD COLUMN levers TEXT NOT NULL DEFAULT '';
"""

_FAULTS = """
ALTER TABLE steps ADD COLUMN evaluation TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN quarantine TEXT NOT NULL DEFAULT '';
"""

_IDENTITIES = """
ALTER TABLE devices ADD COLUMN rekey INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN rewound_from INTEGER NOT NULL DEFAULT 0;
"""

_OUTCOMES = """
ALTER TABLE steps ADD COLUMN validation_loss REAL;
ALTER TABLE steps ADD COLUMN validation_accuracy REAL;
ALTER TABLE runs ADD COLUMN result TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN result_step INTEGER;
ALTER TABLE runs ADD COLUMN result_sha256 TEXT;
ALTER TABLE runs ADD COLUMN best_sha256 TEXT;
ALTER TABLE runs ADD COLUMN result_test_accuracy REAL;
ALTER TABLE runs ADD COLUMN result_validation_accuracy REAL;
ALTER TABLE runs ADD COLUMN warning TEXT NOT NULL DEFAULT '';
"""

_UNFIT = """
ALTER TABLE tasks ADD COLUMN unfit INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tasks_unfit ON tasks (device) WHERE unfit;
ALTER TABLE devices ADD COLUMN data TEXT NOT NULL DEFAULT '';
"""

UPGRADES = (_FIRST, _PARTS_OF_JOBS, _WORDS, _LEVERS, _FAULTS, _IDENTITIES, _UNFIT, _OUTCOMES)
"""What makes each version of the schema from the one before; a new file goes through all of them."""

SCHEMA_VERSION = len(UPGRADES)
