"""The errors a user can cause. Each carries one message: what is wrong, what was found, what was expected, what to do.

The command line prints such an error as one line and exits with 2; anything else is a bug of ours and exits with 1.
"""

from __future__ import annotations

import errno

# The disk is full, a place may not be written, a file and a folder are in each other's place, a name is too long, or
# links lead in a circle.
_REFUSED = (
    *(errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)


class PatchwordError(Exception):
    """Base of every error that is the user's to fix."""


class DataError(PatchwordError):
    """A file or folder of data is missing, short, inconsistent or unreadable."""


class ConfigError(PatchwordError):
    """A recipe, a command-line option or an argument is wrong."""


class CheckpointError(PatchwordError):
    """A checkpoint is missing, truncated, unsafe, or belongs to another method."""


class ShapeError(PatchwordError):
    """A tensor has a shape that the operation can not accept."""


class ScoreError(PatchwordError):
    """A score matrix can not be ranked honestly (non-finite values, wrong size, mismatched ids)."""


class ExportError(PatchwordError):
    """A model can not be written in another form, or gives other numbers in it."""


class CollapseError(PatchwordError):
    """Training has collapsed: all pairs score alike and the loss sits at its margin."""


def exit_code(error: BaseException) -> int:
    """The exit code that the command line gives an error: 2 for the user's to fix, among them places that the system
    refuses to read or write and a device without room, 130 when it was stopped, 1 for a bug of ours.

    Example:
        >>> exit_code(DataError("no such folder")), exit_code(KeyboardInterrupt()), exit_code(ValueError("a bug"))
        (2, 130, 1)
    """
    if isinstance(error, KeyboardInterrupt):
        return 130
    is_refused = isinstance(error, OSError) and error.errno in _REFUSED
    return 2 if is_refused or is_out_of_memory(error) or isinstance(error, PatchwordError) else 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no room. Told by the name of torch's error, so that torch need not be imported.

    Example:
        >>> is_out_of_memory(MemoryError())
        False
    """
    return any((kind.__module__, kind.__name__) == ("torch", "OutOfMemoryError") for kind in type(error).__mro__)
