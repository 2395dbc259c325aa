"""What survives a power loss: accounts, prepared branches, and proofs of committed ones."""

import json
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wire import Branch, is_ended

ACCOUNTS, OPENING_CENTS = 1_000, 100_000
CENTS_MAX = 2**63 - 1
EXIT_STORE_FAILED = 12

SCHEMA = """
CREATE TABLE IF NOT EXISTS account (number INTEGER PRIMARY KEY, cents INTEGER NOT NULL);
-- Prepared branches with their changes ([[account, cents], ...]); committed ones as proof, until
-- the ended mark passes them.
CREATE TABLE IF NOT EXISTS branch (
    gtrid BLOB, bqual BLOB, committed INTEGER NOT NULL, changes TEXT NOT NULL,
    PRIMARY KEY (gtrid, bqual)) WITHOUT ROWID;
-- What each committed branch did, for ever: the accounts' statements.
CREATE TABLE IF NOT EXISTS statement (
    gtrid BLOB, bqual BLOB, account INTEGER, cents INTEGER NOT NULL,
    PRIMARY KEY (gtrid, bqual, account)) WITHOUT ROWID;
-- The highest frame told with a decision, by coordinator's log.
CREATE TABLE IF NOT EXISTS seen (
    log BLOB PRIMARY KEY, epoch INTEGER NOT NULL, frame INTEGER NOT NULL) WITHOUT ROWID;
"""


class Store:
    """What survives a power loss. Each method that changes something returns when it is durable.

    In WAL mode with synchronous=FULL, COMMIT returns after the log beside the database was synced.
    The database file itself is brought up to date later (a checkpoint), and needs no care: whoever
    opens it replays the log, and what was torn by the crash fails its checksum and was not told to
    anybody. (synchronous=NORMAL, which is often advised for WAL, syncs at checkpoints only: votes
    would be lost.)
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(folder / "bank.sqlite", isolation_level=None)
        # One process, one connection: a second one would not know of the locks in memory.
        self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        (mode,) = self.db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            sys.exit(f"no write-ahead log in {folder}")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(SCHEMA)
        with self.durable():
            accounts = ((number, OPENING_CENTS) for number in range(1, ACCOUNTS + 1))
            self.db.executemany("INSERT OR IGNORE INTO account VALUES (?, ?)", accounts)
        # SQLite syncs its files; that they have names is up to the folders.
        for named in (folder, folder.parent):
            directory = os.open(named, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)

    @contextmanager
    def durable(self) -> Iterator[None]:
        """A transaction of the store. If it fails, nobody knows whether it is durable, and a retry
        could hide that it is not. Only opening the store again can tell: the process ends."""
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield
            self.db.execute("COMMIT")
        except sqlite3.Error:
            logging.exception("the store cannot be written")
            os._exit(EXIT_STORE_FAILED)

    def balance(self, account: int) -> int | None:
        found = self.db.execute("SELECT cents FROM account WHERE number = ?", (account,))
        return next((cents for (cents,) in found), None)

    def sum_cents(self) -> int:
        (cents,) = self.db.execute("SELECT sum(cents) FROM account").fetchone()
        return int(cents)

    def prepared(self) -> dict[Branch, dict[int, int]]:
        found = self.db.execute("SELECT gtrid, bqual, changes FROM branch WHERE NOT committed")
        return {Branch(gtrid, bqual): dict(json.loads(text)) for gtrid, bqual, text in found}

    def is_committed(self, branch: Branch) -> bool:
        sql = "SELECT 1 FROM branch WHERE gtrid = ? AND bqual = ? AND committed"
        return self.db.execute(sql, branch).fetchone() is not None

    def seen(self) -> dict[bytes, tuple[int, int]]:
        found = self.db.execute("SELECT log, epoch, frame FROM seen")
        return {log: (epoch, frame) for log, epoch, frame in found}

    def prepare(self, branch: Branch, changes: dict[int, int]) -> None:
        with self.durable():
            text = json.dumps(list(changes.items()))
            self.db.execute("INSERT INTO branch VALUES (?, ?, FALSE, ?)", (*branch, text))

    def commit(
        self,
        branch: Branch,
        changes: dict[int, int],
        seen: dict[bytes, tuple[int, int]],
        marks: dict[bytes, Any],
    ) -> None:
        """The effect and the proof of it, in one transaction. What need not be durable at once
        rides along: frames that were seen, and proofs that marks have passed."""
        with self.durable():
            moved = [(cents, account) for account, cents in changes.items()]
            self.db.executemany("UPDATE account SET cents = cents + ? WHERE number = ?", moved)
            rows = [(*branch, account, cents) for account, cents in changes.items()]
            self.db.executemany("INSERT INTO statement VALUES (?, ?, ?, ?)", rows)
            self.db.execute("REPLACE INTO branch VALUES (?, ?, TRUE, '[]')", branch)
            frames = [(log, epoch, frame) for log, (epoch, frame) in seen.items()]
            self.db.executemany("REPLACE INTO seen VALUES (?, ?, ?)", frames)
            proofs = self.db.execute("SELECT gtrid, bqual FROM branch WHERE committed").fetchall()
            passed = [
                proof
                for proof in proofs
                if (mark := marks.get(proof[0][1:11])) and is_ended(mark, proof[0])
            ]
            self.db.executemany("DELETE FROM branch WHERE gtrid = ? AND bqual = ?", passed)

    def rollback(self, branch: Branch) -> None:
        with self.durable():
            sql = "DELETE FROM branch WHERE gtrid = ? AND bqual = ? AND NOT committed"
            self.db.execute(sql, branch)
