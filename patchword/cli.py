"""The command line: one table of verbs. A verb checks its options, calls what Python calls, and prints or writes it.

Nothing heavy is imported before parsing.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import patchword
from patchword.errors import ConfigError, PatchwordError, exit_code, is_out_of_memory

# verb -> (module:function, what it does, two examples)
VERBS: dict[str, tuple[str, str, tuple[str, str]]] = {
    "demo": (
        "patchword.verbs.training:demo",
        "the whole story on generated scenes: data, training, evaluation, report, search",
        ("patchword demo", "patchword demo --out runs/demo --epochs 4"),
    ),
    "scenes": (
        "patchword.verbs.data:scenes",
        "write the generated scenes data set",
        ("patchword scenes data/scenes", "patchword scenes data/scenes --train 5000 --seed 1"),
    ),
    "doctor": (
        "patchword.verbs.data:doctor",
        "check a data folder or a recipe: what is present, missing, short, wrong; which batch fits into memory",
        (
            "patchword doctor data path/to/f30k --name f30k",
            "patchword doctor memory chan_scenes --data.root data/scenes --limit 8GiB",
        ),
    ),
    "prepare": (
        "patchword.verbs.preparing:prepare",
        "compute once what a method reads beside the features",
        ("patchword prepare adjacency data/f30k --sectors all", "patchword prepare graphs data/f30k --conllu parses"),
    ),
    "extract": (
        "patchword.verbs.data:extract",
        "compute region features or CLIP's vectors from pictures with another model",
        (
            "patchword extract regions photos -o data/photos --detector PekingU/rtdetr_r50vd",
            "patchword extract clip data/coco --clip laion/CLIP-ViT-B-32-laion2B-s34B-b79K --splits train testall",
        ),
    ),
    "train": (
        "patchword.verbs.training:train",
        "train a recipe, or go on with the run that is in the folder",
        (
            "patchword train chan_scenes --data.root data/scenes",
            "patchword train my.yaml --out runs/mine --train.lr 1e-4",
        ),
    ),
    "evaluate": (
        "patchword.verbs.evaluating:evaluate",
        "recall of a run, checkpoint or saved score matrix under a named protocol",
        ("patchword evaluate runs/demo --data runs/demo/data", "patchword evaluate --scores scores.npy --json"),
    ),
    "ensemble": (
        "patchword.verbs.evaluation:ensemble",
        "join saved score matrices and evaluate the result",
        (
            "patchword ensemble a.safetensors b.safetensors",
            "patchword ensemble a.npy b.npy --fusion zscore --save-scores ab.safetensors",
        ),
    ),
    "compare": (
        "patchword.verbs.evaluation:compare",
        "runs or score matrices side by side, with significance",
        (
            "patchword compare runs/a runs/b --data data/f30k",
            "patchword compare a.safetensors b.safetensors --json",
        ),
    ),
    "search": (
        "patchword.verbs.searching:search",
        "images for a sentence, or captions for an image: in an index, or in a split of a data folder",
        (
            'patchword search my.index "a dog on a beach" --without people:0.5 --where "taken >= \'2024\'"',
            'patchword search runs/demo "a red ball left of a box" --data runs/demo/data',
        ),
    ),
    "explain": (
        "patchword.verbs.explaining:explain",
        "which words and patches made a score: picture, page or numbers",
        (
            'patchword explain runs/demo test_00000_0 "a red ball left of a box" --data runs/demo/data -o why.png',
            'patchword explain runs/photos dog.jpg "a dog on the grass" -o why.html',
        ),
    ),
    "import": (
        "patchword.verbs.training:import_",
        "turn an authors' checkpoint into ours, every key accounted for",
        (
            "patchword import chan model_best.pth -o checkpoints/chan --vocab f30k_precomp_vocab.json",
            "patchword import vse_inf model_best.pth -o checkpoints/vse --bert bert-base-uncased",
        ),
    ),
    "export": (
        "patchword.verbs.exporting:export",
        "write a model's two encoders as ONNX, to be run without torch",
        ("patchword export runs/mine -o exported", "patchword export checkpoints/chan -o exported --json"),
    ),
    "parity": (
        "patchword.verbs.evaluation:parity",
        "compare with numbers measured from the authors' own code",
        ("patchword parity tests/golden/chan", "patchword parity tests/golden/vse_infinity --json"),
    ),
    "index": (
        "patchword.verbs.indexing:index",
        "index pictures on disk, keep the index up to date, export its vectors",
        ("patchword index build photos -o my.index --model runs/photos", "patchword index sync my.index"),
    ),
    "serve": (
        "patchword.verbs.serving:serve",
        "answer searches over an index: HTTP, and a page for the browser",
        ("patchword serve my.index", "patchword serve my.index --host 0.0.0.0 --token-file token.txt"),
    ),
    "bench": (
        "patchword.verbs.measuring:bench",
        "measure scoring, training, reading, search and the service beside a matrix product",
        ("patchword bench score --method chan", "patchword bench leaderboard --data scenes"),
    ),
}  # fmt: skip
INDEX_ACTIONS = ("build", "add", "remove", "sync", "compact", "verify")  # that somebody may take for verbs

# What helps where a device has no room: of the verbs that choose their device themselves, and of all others.
HIDE_DEVICE = "Free it, or hide it so that the CPU computes: CUDA_VISIBLE_DEVICES= patchword"
MAKE_ROOM = {
    "train": "Encode fewer pairs at a time, in another --out DIR: --train.micro_batch N, with the N that "
    "`patchword doctor memory RECIPE` finds. If an evaluation had no room: --train.eval_batch N, and this run goes on.",
    "demo": f"{HIDE_DEVICE} demo",
    "doctor": f"{HIDE_DEVICE} doctor ...",
}
CHOOSE_DEVICE = "Free it, or compute on the CPU with --device cpu."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 2 the user's mistake (one line), 1 ours, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    open_streams()
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = warning_line
    if sys.platform == "win32":
        return fail(2, "patchword runs on Linux and macOS. On Windows run it in WSL, its subsystem for Linux.", False)
    try:
        code = dispatch(words)
        sys.stdout.flush()  # here, where a closed pipe is expected, not when Python ends
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        return fail(exit_code(error), told(error, *words[:1]), debug)


def open_streams() -> None:
    """Discard what is printed to a stream that the shell has closed (``>&-``); Python has None in its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the program ends


def dispatch(words: list[str]) -> int:
    """Help, version, or one verb."""
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"patchword {patchword.__version__}\n")
        return 0
    return run_verb(words[0], words[1:])


def run_verb(verb: str, words: list[str]) -> int:
    """Parse the options of a verb by its function's signature, then run it.

    Raises:
        ConfigError: the verb or an option is unknown, or a value has the wrong type.
    """
    if verb not in VERBS:
        from patchword.config_keys import suggestion

        hint = f" It is an action: patchword index {verb}." if verb in INDEX_ACTIONS else suggestion(verb, list(VERBS))
        raise ConfigError(f"unknown verb {verb!r}.{hint} All verbs: patchword --help")
    import tyro

    target, what, examples = VERBS[verb]
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    takes_overrides = getattr(function, "takes_overrides", False)
    words = getattr(function, "prepare_words", list)(words)
    words, overrides = split_overrides(words) if takes_overrides else (words, [])
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said) if _wants_help(words) else contextlib.nullcontext(),
        ):
            parse: Callable[..., Any] = tyro.cli  # its overloads want the last argument as a literal
            parsed = parse(
                tyro.conf.configure(tyro.conf.FlagCreatePairsOff)(_deferred(function)),
                prog=f"patchword {verb}",
                description=what,
                args=words,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            examples = getattr(function, "examples_of", lambda _: None)(words) or examples
            sys.stdout.write(said.getvalue() + "examples:\n" + "".join(f"  {e}\n" for e in examples))
            return 0
        why = one_line(said.getvalue())
        hint = dotted_meant(why) if takes_overrides else ""
        raise ConfigError(f"{why}{hint} Options: patchword {verb} --help") from None
    return int((parsed(overrides=tuple(overrides)) if takes_overrides else parsed()) or 0)


def split_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """A verb's own words, and the dotted options with their values.

    Example:
        >>> split_overrides(["--train.lr", "1e-4", "my.yaml", "--data.name=coco", "--json"])
        (['my.yaml', '--json'], ['--train.lr', '1e-4', '--data.name=coco'])
    """
    own: list[str] = []
    dotted: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        is_dotted = word.startswith("--") and "." in word.partition("=")[0]
        (dotted if is_dotted else own).append(word)
        if is_dotted and "=" not in word and rest and not rest[0].startswith("--"):
            dotted.append(rest.pop(0))
    return own, dotted


def dotted_meant(why: str) -> str:
    """The setting of a recipe that was meant by an option without its section, as a sentence with a blank before it.

    Args:
        why: what the parser says of the options.

    Example:
        >>> dotted_meant("Unrecognized options: --epochs, 1.")
        ' Did you mean `--train.epochs`?'
    """
    asked = re.search(r"Unrecognized options:.*?--([a-z][\w-]*)", why)
    if asked is None:
        return ""
    from patchword.recipe_keys import hint_for

    hint = hint_for("", [asked[1].replace("-", "_")], ())
    return re.sub(r"`((?:data|model|loss|train)\.[\w.]+)`", r"`--\1`", hint)


def _wants_help(words: list[str]) -> bool:
    return "-h" in words or "--help" in words


def _deferred(function: Callable[..., Any]) -> Callable[..., Callable[..., Any]]:
    """The same signature, but calling it only remembers the arguments: parsing and running stay apart."""
    from functools import partial, wraps

    @wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        return partial(function, *args, **kwargs)

    return remember


def one_line(box: str) -> str:
    """What the parser says in a box, drawn or (on plain terminals) under a title, as one line: its first statement,
    and the subcommands there are.

    Example:
        >>> one_line(" Error\\n -----\\n bad: x\\n -----\\n Available subcommands: a, b\\n")
        'bad: x. Available subcommands: a, b.'
    """
    statements: list[list[str]] = [[]]
    for raw in box.splitlines():
        text = raw.strip(" │")
        if set(text) <= set("─-╰╯"):  # a rule, the lower border, or nothing
            statements.append([])
        elif not text.startswith("╭"):
            statements[-1].append(text)
    said = [" ".join(" ".join(lines).split()).replace("{None}|", "") for lines in statements if lines]
    if not box.lstrip().startswith("╭"):
        said = said[1:]  # the title
    chosen = [*said[:1], *(one for one in said[1:] if one.startswith("Available subcommands"))]
    return " ".join(one if one.endswith(".") else f"{one}." for one in chosen)


def told(error: BaseException, verb: str = "") -> str:
    """What the user is told about an error of a verb."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    if isinstance(error, PatchwordError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and exit_code(error) == 2:
        return f"'{error.filename or 'output'}' can not be read or written: {error.strerror}"
    if is_out_of_memory(error):
        what = ". ".join(str(error).rstrip(".").split(". ")[:3])  # torch goes on about its own settings
        return f"the device has no room: {what}. {MAKE_ROOM.get(verb, CHOOSE_DEVICE)}"
    where = method_file_of(error)
    whose = f"at {where}: a mistake there if the method is yours, else a bug" if where else "this is a bug"
    return f"unexpected {type(error).__name__}: {error} ({whose}; --debug shows {'all' if where else 'where'})"


def method_file_of(error: BaseException) -> str:
    """File and line of the last method that an error came through; empty when it came through none."""
    table = sys.modules.get("patchword.methods")
    if table is None:
        return ""
    modules = {target.partition(":")[0] for target in table.METHODS.values()}
    files = {sys.modules[name].__file__ for name in modules if name in sys.modules} | {table.__file__}
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename in files]
    return f"{frames[-1].filename} line {frames[-1].lineno}" if frames else ""


def warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of this package as one line; one of another package also says where it comes from."""
    is_ours = Path(filename).is_relative_to(Path(patchword.__file__).parent)
    return f"warning: {message}\n" if is_ours else f"{filename}:{lineno}: {category.__name__}: {message}\n"


def fail(code: int, message: str, debug: bool) -> int:
    """Print one line to the error stream, without what would steer a terminal, and give the exit code."""
    from patchword.verbs.one_line import shown

    if debug:
        traceback.print_exc()
    sys.stderr.write(shown(" ".join(message.split())) + "\n")
    return code


def overview() -> str:
    """What ``patchword --help`` prints."""
    width = max(map(len, VERBS)) + 2
    lines = [
        "usage: patchword VERB [options]",
        "",
        "fine-grained image-text matching: train, evaluate, search",
        "",
        *(f"  {verb:<{width}}{what}" for verb, (_, what, _) in VERBS.items()),
        "",
        "patchword VERB --help shows the options of a verb. Exit codes: 0 done, 2 your input, 1 a bug, 130 stopped.",
        "--debug shows where an error comes from. Start with: patchword demo",
        "",
    ]
    return "\n".join(lines)
