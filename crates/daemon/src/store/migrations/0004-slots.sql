-- The number that a VM has for itself on its host while it exists; user ids and interfaces are named after it.

CREATE TABLE slots (
    slot INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 9999),
    vm   TEXT NOT NULL UNIQUE
) STRICT;
