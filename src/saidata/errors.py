"""Every error a user of saidata can meet, as one tree.

    SaidataError                 ours to mend (exit 1)
    ├── Misuse                   the caller can mend it (exit 2)
    │   ├── BadName              a software name that is no safe name
    │   ├── BadText              a file that cannot be read as saidata; says the line and the column
    │   ├── NotHere              no such file, package, job or snapshot
    │   ├── BadIndex             no index, a corrupt one, or one that another version wrote
    │   └── Refused              the machine does not let us: a full disk, a folder that cannot be written
    └── Unreachable              a server or a package client that does not answer (exit 1); a retry may help

A message is a sentence; `hint` is the next step. Open `SaidataError` first. Findings of a check are no errors: they are
printed, and the command ends with `FINDINGS`.
"""

from __future__ import annotations

import errno
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


class Refused(Misuse):
    """The machine does not let us read or write something: no room, no right, no such folder."""

    def __init__(self, error: OSError, what: str = ""):
        """`what` is the sentence's beginning, such as "DIR/FILE cannot be written"; the file's name without it."""
        said = error.strerror or str(error) or type(error).__name__
        about = what or str(error.filename or "")
        super().__init__(f"{about}: {said}" if about else said, _NEXT_STEP.get(error.errno or 0, "check the path"))


_NEXT_STEP = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "the disk is full: make room, then go on"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "is the folder writable?"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many files are open: raise the limit with `ulimit -n`"),
    errno.EIO: "the disk may be failing: look at the system's log",
}


class Unreachable(SaidataError):
    """A server or a package client that does not answer."""

    retryable = True
