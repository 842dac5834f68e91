"""The verb that makes an index and keeps it up to date: one class for each action, with its options."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from patchword.verbs.index_care import Calibrate, Compact, Export, Info, Verify
from patchword.verbs.index_changes import Add, Build, Captions, Remove, Sync

Action = (
    Annotated[Build, subcommand("build")]
    | Annotated[Add, subcommand("add")]
    | Annotated[Remove, subcommand("remove")]
    | Annotated[Sync, subcommand("sync")]
    | Annotated[Compact, subcommand("compact")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Captions, subcommand("captions")]
    | Annotated[Calibrate, subcommand("calibrate")]
)


def index(action: Annotated[Action, OmitArgPrefixes, OmitSubcommandPrefixes]) -> int:
    """Make an index of pictures and keep it up to date.

    Args:
        action: what to do.
    """
    return action.run()
