"""The verb that computes once what a method reads beside the features: one class for each kind, with its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from patchword.errors import ConfigError
from patchword.verbs.options import Device, OptionalPath, OptionalText, device_of
from patchword.verbs.output import say, say_json

if TYPE_CHECKING:
    from patchword.data.graphs import GraphSource


@dataclass(frozen=True)
class Adjacency:
    """Which regions are neighbours, from their boxes (CEFG): ``<split>_ims_adjacency.npy``.

    Attributes:
        folder: data folder with features and boxes; the files are written beside them.
        name: data set name, when the folder holds several.
        sectors: ``left`` as the published script does, or ``all`` eight directions.
        json: print JSON.
    """

    folder: Positional[Path]
    name: OptionalText = None
    sectors: Literal["left", "all"] = "left"
    json: bool = False

    def run(self) -> int:
        """Write the neighbours."""
        from patchword.data.adjacency_files import write_adjacency

        written = write_adjacency(self.folder, name=self.name, sectors=self.sectors)
        if self.json:
            say_json([vars(one) for one in written])
            return 0
        for one in written:
            crowded = (
                f"; {one.crowded:.1%} of the regions have more than 5, of which CEFG reads 5" if one.crowded else ""
            )
            say(f"'{one.path}': {one.images:,} images, {one.mean:.2f} neighbours a region (itself included){crowded}")
        return 0


@dataclass(frozen=True)
class Graphs:
    """A graph of every caption (CEFG with model.amr): ``<split>_amr.penman``.

    Attributes:
        folder: data folder; the files are written beside the features.
        name: data set name, when the folder holds several.
        amrlib: make AMR with the amrlib model of this folder.
        conllu: folder with ``<split>.conllu``, a dependency parse of every caption.
        device: where amrlib computes: auto, cpu or cuda:0.
        json: print JSON.
    """

    folder: Positional[Path]
    name: OptionalText = None
    amrlib: OptionalPath = None
    conllu: OptionalPath = None
    device: Device = "cpu"
    json: bool = False

    def run(self) -> int:
        """Write the graphs.

        Raises:
            ConfigError: no source of graphs was named, or two.
        """
        from patchword.data.graph_files import write_graphs
        from patchword.data.graphs import amrlib_parser

        if (self.amrlib is None) == (self.conllu is None):
            raise ConfigError("`prepare graphs` needs either --amrlib FOLDER or --conllu FOLDER.")
        parser = None if self.amrlib is None else amrlib_parser(self.amrlib, device=device_of(self.device))
        written = write_graphs(self.folder, lambda split: parser or self._parsed(split), name=self.name)
        if self.json:
            say_json([vars(one) for one in written])
            return 0
        for one in written:
            say(f"'{one.path}': {one.captions:,} captions, {one.without:,} of them without a graph")
        return 0

    def _parsed(self, split: str) -> GraphSource | None:
        from patchword.data.dependency_graphs import ConlluFile

        path = Path(self.conllu or "") / f"{split}.conllu"
        return ConlluFile(path) if path.is_file() else None


@dataclass(frozen=True)
class StandIns:
    """Vectors in the place of CLIP's (AAHR): the mean region of an image, the mean hidden state of a caption.

    Attributes:
        folder: data folder with features; <split>_ims_clip.npy, <split>_caps_clip.npy and a note go beside them.
        text: local folder of a BERT model, or its name on the hub.
        called: what tables call that model; the folder's name by default.
        name: data set name, when the folder holds several.
        device: where the BERT computes: auto, cpu or cuda:0.
        json: print JSON.
    """

    folder: Positional[Path]
    text: Path
    called: OptionalText = None
    name: OptionalText = None
    device: Device = "cpu"
    json: bool = False

    def run(self) -> int:
        """Write the vectors."""
        from rich.console import Console

        from patchword.data.stand_ins import write_stand_ins
        from patchword.encoders.sentence import SentenceEncoder

        encoder = SentenceEncoder(self.text, device=device_of(self.device))
        called = self.called or self.text.name
        about, written = write_stand_ins(self.folder, encoder, called, name=self.name, console=Console(stderr=True))
        if self.json:
            say_json([vars(one) for one in written])
            return 0
        for one in written:
            say(f"'{one.path}': {one.rows:,} rows of width {one.width}")
        say(f"{about.sentence()}; AAHR reads them with --model.guide clip --model.clip_dim {about.width}")
        return 0


Kind = (
    Annotated[Adjacency, subcommand("adjacency")]
    | Annotated[Graphs, subcommand("graphs")]
    | Annotated[StandIns, subcommand("stand-ins")]
)


def prepare(what: Annotated[Kind, OmitArgPrefixes, OmitSubcommandPrefixes]) -> int:
    """Compute once what a method reads beside the features.

    Args:
        what: to compute.
    """
    return what.run()
