-- One image may be called by several names. The column images.name, which cannot be dropped because it is unique, holds
-- the id from now on.

CREATE TABLE image_names (
    -- The order in which names were given.
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    name             TEXT NOT NULL UNIQUE,
    image            TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX image_names_by_image ON image_names (image, number);

INSERT INTO image_names (name, image) SELECT name, id FROM images ORDER BY created_at_ms, id;
UPDATE images SET name = id;
