BEGIN TRANSACTION;
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
, quarantine TEXT NOT NULL DEFAULT '', rekey INTEGER NOT NULL DEFAULT 0, trouble TEXT NOT NULL DEFAULT '', data TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "devices" VALUES('board-1','board-1','key','accepted','s1',1,1000.0,'{"name":"pi-4b"}','{}',500,'["native"]',3000,0,0,'',0,'','{"shape":[1,28],"dtype":"uint8","layout":"CL","classes":["off","on"],"range":[0.0,255.0],"seen":[3.0,200.0],"units":"g","rate":50.0,"channels":["x"],"front_end":{"window":28},"samples":[30,20],"unlabelled":4,"skipped":{"unread suffix":{"count":2,"example":"notes.txt"}}}');
INSERT INTO "devices" VALUES('board-2','board-2','key','accepted','s1',1,1000.0,'{"name":"pi-4b"}','{}',500,'["native"]',3000,0,0,'',0,'','{"shape":[1,28],"dtype":"uint8","layout":"CL","classes":["off","on"],"range":[0.0,255.0],"seen":[3.0,200.0],"units":"g","rate":50.0,"channels":["x"],"front_end":{"window":28},"samples":[30,20],"unlabelled":4,"skipped":{"unread suffix":{"count":2,"example":"notes.txt"}}}');
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
, rewound_from INTEGER NOT NULL DEFAULT 0, result TEXT NOT NULL DEFAULT '', result_step INTEGER, result_sha256 TEXT, best_sha256 TEXT, result_test_accuracy REAL, result_validation_accuracy REAL, warning TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "runs" VALUES(1,'recorded-d38b6c88','recorded','tinyfleet','running','',1,1,20,1000.0,1000.0,NULL,'{"name":"recorded","seed":3,"method":{"name":"tinyfleet"},"model":{"name":"small_cnn","input_shape":[1,28,28],"classes":10,"arguments":{},"layers":[],"file":"","blocks":[],"init":"","graph":{}},"training":{"rounds":20,"local_epochs":1,"batch":32,"learning_rate":0.05,"final_learning_rate":null,"schedule":"geometric","step_rounds":10,"step_factor":0.1,"warmup_rounds":0,"momentum":0.9,"weight_decay":0.0005,"optimiser":"sgd","adam_second":0.999,"adam_epsilon":1e-8,"clip_gradient":0.0,"proximal":0.0,"activation_keep":1.0,"activation_precision":"fp32","activation_norms":false,"kernels":"measured","pretrain_epochs":5,"pretrain_learning_rate":0.05,"server":{"optimiser":"none","learning_rate":null,"momentum":0.9,"second":0.99,"adaptivity":0.001},"augment":{"crop":0,"flip":0.0,"cutout":0,"colour":0.0,"jitter":0.0,"scale":0.0,"shift":0,"time_mask":0,"frequency_mask":0},"average_rounds":5},"data":{"source":"mnist5k","public_fraction":0.1,"validation_fraction":0.0,"test_fraction":0.2,"classes":[],"limit":0,"partition":{"kind":"none","alpha":0.5,"devices":1,"seed":0}},"fleet":{"cohort":0,"min_results":1,"min_devices":1,"deadline_s":600.0,"grace_s":30.0,"staleness":0,"max_retries":8,"selection":"random","round_target_s":0.0,"least_share":0.125,"patience":8,"norm_limit":100.0,"influence_limit":1.5,"aggregate":"mean","hostile_share":0.3,"max_refusals":3},"wire":{"precision":"fp16","compress":true},"privacy":{"mode":"none","clip":1.0,"noise":0.0,"epsilon":0.0,"delta":0.00001},"secure_aggregation":{"enabled":false,"threshold":0.5,"neighbours":0},"result":"last","contract":null}',0,'16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4',0,'',NULL,NULL,NULL,NULL,NULL,'');
INSERT INTO "runs" VALUES(2,'stopped-46266ad6','stopped','tinyfleet','stopped','by the operator',0,0,20,1000.0,NULL,1000.0,'{"name":"stopped","seed":0,"method":{"name":"tinyfleet"},"model":{"name":"small_cnn","input_shape":[1,28,28],"classes":10,"arguments":{},"layers":[],"file":"","blocks":[],"init":"","graph":{}},"training":{"rounds":20,"local_epochs":1,"batch":32,"learning_rate":0.05,"final_learning_rate":null,"schedule":"geometric","step_rounds":10,"step_factor":0.1,"warmup_rounds":0,"momentum":0.9,"weight_decay":0.0005,"optimiser":"sgd","adam_second":0.999,"adam_epsilon":1e-8,"clip_gradient":0.0,"proximal":0.0,"activation_keep":1.0,"activation_precision":"fp32","activation_norms":false,"kernels":"measured","pretrain_epochs":5,"pretrain_learning_rate":0.05,"server":{"optimiser":"none","learning_rate":null,"momentum":0.9,"second":0.99,"adaptivity":0.001},"augment":{"crop":0,"flip":0.0,"cutout":0,"colour":0.0,"jitter":0.0,"scale":0.0,"shift":0,"time_mask":0,"frequency_mask":0},"average_rounds":5},"data":{"source":"mnist5k","public_fraction":0.1,"validation_fraction":0.0,"test_fraction":0.2,"classes":[],"limit":0,"partition":{"kind":"none","alpha":0.5,"devices":1,"seed":0}},"fleet":{"cohort":0,"min_results":1,"min_devices":1,"deadline_s":600.0,"grace_s":30.0,"staleness":0,"max_retries":8,"selection":"random","round_target_s":0.0,"least_share":0.125,"patience":8,"norm_limit":100.0,"influence_limit":1.5,"aggregate":"mean","hostile_share":0.3,"max_refusals":3},"wire":{"precision":"fp16","compress":true},"privacy":{"mode":"none","clip":1.0,"noise":0.0,"epsilon":0.0,"delta":0.00001},"secure_aggregation":{"enabled":false,"threshold":0.5,"neighbours":0},"result":"last","contract":null}',0,NULL,0,'',NULL,NULL,NULL,NULL,NULL,'');
CREATE TABLE "shares" (
  device TEXT PRIMARY KEY REFERENCES devices (device),
  run TEXT NOT NULL,
  step INTEGER NOT NULL,
  part TEXT NOT NULL,
  chosen INTEGER NOT NULL,
  local_steps INTEGER NOT NULL,
  whole_local_steps INTEGER NOT NULL,
  activation_keep REAL NOT NULL,
  predicted_s REAL,
  basis TEXT NOT NULL,
  reason TEXT NOT NULL
) STRICT;
INSERT INTO "shares" VALUES('board-1','recorded-d38b6c88',1,'whole',1,5,9,1.0,NULL,'','');
INSERT INTO "shares" VALUES('board-2','recorded-d38b6c88',1,'whole',1,5,9,1.0,NULL,'','');
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
  density REAL, left_out TEXT NOT NULL DEFAULT '{}', evaluation TEXT NOT NULL DEFAULT '', validation_loss REAL, validation_accuracy REAL,
  PRIMARY KEY (run, step)
) STRICT;
INSERT INTO "steps" VALUES('recorded-d38b6c88',0,'train',0,'finished',1,'a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e',1000.0,1000.0,2.0,0.5,2,1,'[{"device":"board-2","reason":"deadline"}]',0.7,0.8,NULL,NULL,0.1,'{}','',NULL,NULL);
INSERT INTO "steps" VALUES('recorded-d38b6c88',1,'train',1,'open',1,'16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4',1000.0,NULL,NULL,NULL,2,0,'[]',NULL,NULL,NULL,NULL,NULL,'{}','',NULL,NULL);
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
  local_steps_done INTEGER NOT NULL DEFAULT 0,
  local_steps_total INTEGER NOT NULL DEFAULT 0,
  result_sha256 TEXT,
  counted_in INTEGER,
  arrival INTEGER, local_steps INTEGER NOT NULL DEFAULT 0, activation_keep REAL NOT NULL DEFAULT 1.0, wall_s REAL, levers TEXT NOT NULL DEFAULT '', unfit INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (run, step, device),
  FOREIGN KEY (run, step) REFERENCES steps (run, step)
) STRICT;
INSERT INTO "tasks" VALUES('recorded-d38b6c88',0,'board-1','offered','',0,NULL,NULL,0,NULL,NULL,'',0,0,0,NULL,NULL,NULL,5,1.0,NULL,'',0);
INSERT INTO "tasks" VALUES('recorded-d38b6c88',0,'board-2','lost','deadline',0,NULL,NULL,0,NULL,NULL,'',0,0,0,NULL,NULL,NULL,5,1.0,NULL,'',0);
INSERT INTO "tasks" VALUES('recorded-d38b6c88',1,'board-1','offered','',0,NULL,NULL,0,NULL,NULL,'',0,0,0,NULL,NULL,NULL,5,1.0,NULL,'',0);
INSERT INTO "tasks" VALUES('recorded-d38b6c88',1,'board-2','offered','',0,NULL,NULL,0,NULL,NULL,'',0,0,0,NULL,NULL,NULL,5,1.0,NULL,'',0);
CREATE INDEX tasks_counted ON tasks (run, counted_in);
CREATE INDEX tasks_unfit ON tasks (device) WHERE unfit;
COMMIT;
PRAGMA user_version = 8;
