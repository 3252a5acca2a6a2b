"""Every error a user of saidata can meet, as one tree.

    SaidataError                 ours to mend (exit 1)
    ├── Misuse                   the caller can mend it (exit 2)
    │   ├── BadName              a software name that is no safe name
    │   ├── BadText              a file that cannot be read as saidata; says the line and the column
    │   ├── NotHere              no such file, package, job or snapshot
    │   └── BadIndex             no index, a corrupt one, or one that another version wrote
    └── Unreachable              a server or a package client that does not answer (exit 1); a retry may help

A message is a sentence; `hint` is the next step. Open `SaidataError` first. Findings of a check are no errors: they are
printed, and the command ends with `FINDINGS`.
"""

from __future__ import annotations

from typing import ClassVar

FINDINGS = 3
"""The exit code of a check that found something."""


class SaidataError(Exception):
    """Base of the tree. `str(error)` is one sentence; `hint` is what to do next, or empty."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def sentence(self) -> str:
        """The message and its hint as a person reads them."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Misuse(SaidataError):
    """The caller can mend it."""

    exit_code = 2


class BadName(Misuse):
    """A software name that is no safe name for a file."""


class BadText(Misuse):
    """A file that cannot be read as saidata. `line` and `column` count from 1; 0 where the whole file is meant."""

    def __init__(self, message: str, hint: str = "", line: int = 0, column: int = 0):
        super().__init__(message, hint)
        self.line = line
        self.column = column


class NotHere(Misuse):
    """No such file, package, job or snapshot."""


class BadIndex(Misuse):
    """No index, a corrupt one, or one that another version wrote."""


class Unreachable(SaidataError):
    """A server or a package client that does not answer."""

    retryable = True
