"""The tables of an index file, and its version. Open `TABLES`.

One SQLite file holds one snapshot. `package` has one row per binary package (the highest version of it), `file` the paths
that matter, `words` the full text. A file of another version is never read: it is built again, which takes a minute.
"""

from __future__ import annotations

SCHEMA_VERSION = 1
APPLICATION_ID = 0x53414944  # "SAID", where SQLite keeps such a mark

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    label TEXT NOT NULL,      -- "debian bookworm main Packages"
    date TEXT NOT NULL,       -- ISO 8601, of the source
    base TEXT NOT NULL,       -- address its files are below
    entries INTEGER NOT NULL
);
CREATE TABLE package (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    name TEXT NOT NULL,
    source_package TEXT NOT NULL,
    version TEXT NOT NULL,
    section TEXT NOT NULL,
    summary TEXT NOT NULL,
    description TEXT NOT NULL,
    homepage TEXT NOT NULL,
    maintainer TEXT NOT NULL,
    tags TEXT NOT NULL,       -- as the package lists them, with ", " between
    depends TEXT NOT NULL,    -- the control fields Pre-Depends and Depends
    provides TEXT NOT NULL,
    file_name TEXT NOT NULL,  -- of the package, below the source's base
    sha256 TEXT NOT NULL,
    source INTEGER NOT NULL REFERENCES source (id),
    reverse_depends INTEGER NOT NULL,  -- other source packages that need or recommend it
    prior REAL NOT NULL       -- how likely a person means this package at all
);
CREATE TABLE file (
    package INTEGER NOT NULL REFERENCES package (id),
    kind TEXT NOT NULL,       -- a FactKind, or "completion"
    path TEXT NOT NULL,
    source INTEGER NOT NULL REFERENCES source (id),
    PRIMARY KEY (package, kind, path)
) WITHOUT ROWID;
CREATE TABLE provided (name TEXT NOT NULL, package INTEGER NOT NULL, PRIMARY KEY (name, package)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (name, summary, description, tags, commands, content = '', tokenize = 'porter unicode61');
"""

INDEXES = """
CREATE UNIQUE INDEX package_name ON package (name, provider);
CREATE INDEX package_source ON package (source_package);
CREATE INDEX file_path ON file (path);
"""
