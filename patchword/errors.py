"""The errors a user can cause. Each carries one message: what is wrong, what was found, what was expected, what to do.

The command line prints such an error as one line and exits with 2; anything else is a bug of ours and exits with 1.
"""


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


class CollapseError(PatchwordError):
    """Training has collapsed: all pairs score alike and the loss sits at its margin."""
