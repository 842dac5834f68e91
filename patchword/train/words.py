"""What the first lines of a run say about words that the model can not tell apart."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from patchword.data.tokenizers import Tokenizer

SAMPLE = 20_000  # captions: a second of work on COCO's 600,000
WORRYING = 0.05  # of the words; those that `data.min_word_count` leaves out are fewer
_ADVICE = {
    "words": "For text without blanks between words (Chinese, Japanese, Thai), use a BERT recipe or segment the "
    "captions first; if the vocabulary was made from other captions (data.vocabulary, train.start_from), let one be "
    "built from these; if there are few captions, try --data.min_word_count 1",
    "pieces": "Use a BERT of the language and script of the captions; if it is one, its tokenizer_config.json may be "
    "missing or wrong about `do_lower_case` or `strip_accents`",
    "transformers": "Use a model of the language and script of the captions",
}


def report_words(console: Console, tokenizer: Tokenizer, captions: Sequence[str]) -> None:
    """Print which share of the words of the training captions is known, and a warning where that is too little.

    Only the first ``SAMPLE`` captions (20,000) are looked at. Rare words that a vocabulary leaves out on purpose are
    some percent at most; a warning comes where more than ``WORRYING`` (5 %) of the words are unknown.

    Args:
        console: to print on.
        tokenizer: of the model.
        captions: of the training split, in its order.
    """
    sample = captions[:SAMPLE]
    which = "the training captions" if len(sample) == len(captions) else f"the first {SAMPLE:,} training captions"
    unknown = tokenizer.unknown_rate(sample)
    console.print(f"the vocabulary knows {100 * (1 - unknown):.1f} % of the words of {which}", highlight=False)
    if unknown > WORRYING:
        console.print(
            f"warning: {100 * unknown:.1f} % of the words of {which} are unknown to the vocabulary, "
            f"and the model takes them all for one word. {_ADVICE[tokenizer.kind]}.",
            style="yellow",
            highlight=False,
        )
