"""The verb that makes an index and keeps it up to date: one class for each action, with its options."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from patchword.errors import PatchwordError
from patchword.verbs.index_care import Calibrate, Compact, Export, Info, Verify
from patchword.verbs.index_changes import Add, Backend, Build, Captions, Remove, Sync
from patchword.verbs.one_line import note_line, shown

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
    | Annotated[Backend, subcommand("backend")]
)

# action -> two examples
EXAMPLES = {
    "build": (
        "patchword index build photos -o my.index --model runs/photos",
        "patchword index build photos -o my.index --model runs/chan --features data/photos --backend faiss",
    ),
    "add": ("patchword index add my.index more/photos one.jpg", "patchword index add my.index --columns tags.csv"),
    "remove": (
        "patchword index remove my.index 12 blurred/a.jpg",
        "patchword index remove my.index --where \"width < 200 or tag = 'blurred'\"",
    ),
    "sync": ("patchword index sync my.index", "patchword index sync my.index photos/2024 --verify"),
    "compact": ("patchword index compact my.index", "patchword index compact my.index --json"),
    "info": ("patchword index info my.index", "patchword index info my.index --recall --queries queries.txt"),
    "verify": ("patchword index verify my.index", "patchword index verify my.index --json"),
    "export": (
        "patchword index export my.index -o vectors.npz",
        "patchword index export my.index -o captions.safetensors --kind caption",
    ),
    "captions": (
        "patchword index captions my.index captions.jsonl",
        "patchword index captions my.index --clear",
    ),
    "calibrate": (
        "patchword index calibrate my.index data/photos",
        "patchword index calibrate my.index data/f30k --name f30k --split dev",
    ),
    "backend": (
        "patchword index backend my.index faiss",
        "patchword index backend my.index milvus --options uri=http://milvus:19530",
    ),
}


def index(action: Annotated[Action, OmitArgPrefixes, OmitSubcommandPrefixes]) -> int:
    """Make an index of pictures and keep it up to date.

    Args:
        action: what to do.
    """
    try:
        return action.run()
    except PatchwordError as error:
        error.args = (shown(str(error)),)
        raise
    except KeyboardInterrupt:
        how = _how_to_go_on(action)
        if how is not None:
            note_line(f"what is indexed stays. Go on with: {how}")
        raise


def _how_to_go_on(action: Action) -> str | None:
    """The command that ends what was stopped; None where there is nothing to end."""
    from patchword.store.layout import is_index

    place = action.out if isinstance(action, Build) else action.index
    if place is None or not is_index(place):
        return None
    if isinstance(action, Captions) and action.file is not None:
        return f"patchword index captions {quote(str(place))} {quote(str(action.file))}"
    return f"patchword index sync {quote(str(place))}" if isinstance(action, Build | Add | Sync) else None


def examples_of(words: Sequence[str]) -> tuple[str, str] | None:
    """The examples for the help that these words ask for; None for that of all actions."""
    return EXAMPLES.get(words[0]) if words else None


index.examples_of = examples_of  # type: ignore[attr-defined]
