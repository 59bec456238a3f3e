-- VMs, their boots, what they are made of, and the journal of operations.
-- Columns named *_json hold one JSON document of the type of the same name in src/store/records.rs.

CREATE TABLE images (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    manifest_json    TEXT NOT NULL,
    created_at_ms    INTEGER NOT NULL
) STRICT;

CREATE TABLE kernels (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    manifest_json    TEXT NOT NULL,
    created_at_ms    INTEGER NOT NULL
) STRICT;

CREATE TABLE vms (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    state_json       TEXT NOT NULL,
    spec_json        TEXT NOT NULL,
    image_id         TEXT NOT NULL REFERENCES images (id),
    kernel_id        TEXT NOT NULL REFERENCES kernels (id),
    identity_json    TEXT NOT NULL,
    workspace_json   TEXT,
    last_error       TEXT,
    created_at_ms    INTEGER NOT NULL
) STRICT;
CREATE INDEX vms_by_image ON vms (image_id);
CREATE INDEX vms_by_kernel ON vms (kernel_id);

CREATE TABLE boots (
    id               TEXT PRIMARY KEY,
    vm               TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    launch_json      TEXT NOT NULL,
    attachment_json  TEXT NOT NULL,
    started_at_ms    INTEGER NOT NULL,
    ready_at_ms      INTEGER,
    ended_at_ms      INTEGER,
    ended            TEXT,
    init             TEXT,
    warnings_json    TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE INDEX boots_by_vm ON boots (vm, started_at_ms);
CREATE INDEX boots_open ON boots (vm) WHERE ended_at_ms IS NULL;

CREATE TABLE operations (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT NOT NULL UNIQUE,
    kind             TEXT NOT NULL,
    subject          TEXT NOT NULL,
    -- What it holds while it is open: a VM id, or a name of the kind `image:debian-bookworm`.
    holds            TEXT,
    plan_json        TEXT NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('open', 'succeeded', 'unwound', 'stuck')),
    error_json       TEXT,
    started_at_ms    INTEGER NOT NULL,
    ended_at_ms      INTEGER
) STRICT;
-- One operation per VM at a time, against every race.
CREATE UNIQUE INDEX operations_hold ON operations (holds) WHERE state = 'open';

CREATE TABLE edges (
    operation        INTEGER NOT NULL REFERENCES operations (number) ON DELETE CASCADE,
    number           INTEGER NOT NULL,
    step             TEXT NOT NULL,
    kind             TEXT NOT NULL,
    cause_json       TEXT,
    at_ms            INTEGER NOT NULL,
    PRIMARY KEY (operation, number)
) STRICT, WITHOUT ROWID;
