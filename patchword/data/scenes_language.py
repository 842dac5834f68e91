"""The language of the scenes: a small grammar with synonyms, the truth of a sentence, and sentences made false.

A caption is kept as a structure of chosen words, so that it can be read aloud (``Caption.text``), checked against a
scene (``is_true``) and made false by exchanging one word or phrase (``negate``).

    caption  = [opening] clause { joint clause } .
    clause   = mention | mention [verb] phrase mention
    mention  = article [size] [texture] [colour] noun
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from patchword.data.scenes_world import OPPOSITE, Difference, Scene, Thing, may_hold, pick, relation_between

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "size": {"small": ("small", "tiny", "little"), "medium": ("medium",), "large": ("large", "big", "huge")},
    "texture": {
        "plain": ("plain", "solid"),
        "striped": ("striped", "stripy"),
        "dotted": ("dotted", "spotted"),
        "checked": ("checked", "checkered"),
    },
    "colour": {
        "red": ("red", "crimson"),
        "orange": ("orange",),
        "yellow": ("yellow", "golden"),
        "green": ("green", "emerald"),
        "blue": ("blue", "azure"),
        "purple": ("purple", "violet"),
        "pink": ("pink",),
        "brown": ("brown",),
    },
    "shape": {
        "circle": ("circle", "ball"),
        "square": ("square", "box"),
        "triangle": ("triangle",),
        "diamond": ("diamond", "rhombus"),
        "star": ("star",),
        "heart": ("heart",),
        "ring": ("ring", "hoop"),
        "cross": ("cross",),
    },
}
PHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "behind": ("behind", "partly hidden by"),
    "in front of": ("in front of", "partly covering"),
    "inside": ("inside", "within"),
    "around": ("around", "surrounding"),
    "same colour": ("the same colour as", "of the same colour as"),
}
NOUNS = ("shape", "object", "thing")  # for a thing whose shape is not told
LIST_OPENINGS = ("", "there is", "a picture of", "we see")
CLAUSE_OPENINGS = ("", "", "there is", "a picture of", "we see")
ATTRIBUTE_ODDS = {"size": 0.4, "texture": 0.5, "colour": 0.85, "shape": 0.9}
VALUE_OF = {word: (kind, value) for kind, values in WORDS.items() for value, words in values.items() for word in words}
RELATION_OF = {phrase: relation for relation, phrases in PHRASES.items() for phrase in phrases}


@dataclass(frozen=True)
class Mention:
    """A noun phrase: the chosen word of each attribute, empty where it is not told."""

    size: str = ""
    texture: str = ""
    colour: str = ""
    shape: str = ""

    @property
    def text(self) -> str:
        """The phrase with its article."""
        words = " ".join(word for word in (self.size, self.texture, self.colour, self.shape) if word)
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    @property
    def told(self) -> dict[str, str]:
        """Attribute -> value, for the attributes that are told."""
        words = (self.size, self.texture, self.colour, self.shape)
        return dict(VALUE_OF[word] for word in words if word in VALUE_OF)

    def fits(self, thing: Thing) -> bool:
        """Whether a thing has everything that is told."""
        return all(thing.value(kind) == value for kind, value in self.told.items())


@dataclass(frozen=True)
class Clause:
    """A mention, or two mentions with a verb (may be empty) and the phrase of a relation between them."""

    subject: Mention
    verb: str = ""
    phrase: str = ""
    target: Mention | None = None

    @property
    def text(self) -> str:
        """The words of the clause."""
        if self.target is None:
            return self.subject.text
        return " ".join(part for part in (self.subject.text, self.verb, self.phrase, self.target.text) if part)

    @property
    def mentions(self) -> tuple[Mention, ...]:
        """The mentions in the order of speech."""
        return (self.subject,) if self.target is None else (self.subject, self.target)


@dataclass(frozen=True)
class Caption:
    """A sentence: an opening (may be empty), clauses, and what stands between one clause and the next."""

    opening: str
    clauses: tuple[Clause, ...]
    joints: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentence in words with blanks around punctuation, as SCAN's files have it.

        Example:
            >>> Caption("there is", (Clause(Mention(colour="orange", shape="star")),), ()).text
            'There is an orange star .'
        """
        joints = ("", *self.joints)
        parts = [
            self.opening,
            *(word for pair in zip(joints, self.clauses, strict=True) for word in (pair[0], pair[1].text)),
            ".",
        ]
        text = " ".join(part for part in parts if part)
        return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Negative:
    """A caption made false in one place: ``kind`` is an attribute or ``relation``; before and after are values."""

    caption: Caption
    kind: str
    before: str
    after: str


def is_true(caption: Caption, scene: Scene, *, generous: bool = False) -> bool:
    """Whether different things of the scene can be found for all mentions such that every relation holds.

    Args:
        caption: what is said.
        scene: what is shown.
        generous: count relations that someone might see in the picture (``may_hold``), not only those that are meant.
            A caption that is not even generously true is false beyond doubt.
    """
    mentions = [(clause, mention) for clause in caption.clauses for mention in clause.mentions]
    return _all_found(mentions, [], scene, generous)


def _all_found(mentions: list[tuple[Clause, Mention]], found: list[int], scene: Scene, generous: bool) -> bool:
    """Whether the mentions after those that were found can be found, too; tried in the order of the scene's things."""
    if len(found) == len(mentions):
        return True
    clause, mention = mentions[len(found)]
    for i, thing in enumerate(scene.things):
        if i in found or not mention.fits(thing):
            continue
        if mention is clause.target and not _holds(scene, RELATION_OF[clause.phrase], found[-1], i, generous):
            continue
        if _all_found(mentions, [*found, i], scene, generous):
            return True
    return False


def _holds(scene: Scene, relation: str, first: int, second: int, generous: bool) -> bool:
    """Whether a relation that can be spoken of holds between two things."""
    if relation == "same colour":
        return scene.things[first].colour == scene.things[second].colour
    if generous:
        return may_hold(scene, relation, first, second)
    return relation_between(scene, first, second) == relation


def describe(scene: Scene, points: Sequence[Sequence[Difference]], generator: np.random.Generator) -> list[Caption]:
    """One true caption for each element of ``points``, which must speak of those places (an empty one is free)."""
    return [_Speaker(scene, generator).caption(wanted) for wanted in points]


class _Speaker:
    """Composes one caption; remembers which things it has mentioned, each at most once."""

    def __init__(self, scene: Scene, generator: np.random.Generator) -> None:
        self.scene = scene
        self.generator = generator
        self.used: set[int] = set()
        self.wanted: dict[int, set[str]] = {}

    def caption(self, points: Sequence[Difference]) -> Caption:
        """Speak of every point that is not yet covered, then of a thing or two more."""
        for point in points:
            if point.kind != "relation":
                self.wanted.setdefault(point.things[0], set()).add(point.kind)
        clauses = [clause for point in points if (clause := self.clause_about(point)) is not None]
        size = 2 + int(self.generator.random() < 0.55) + int(self.generator.random() < 0.15)
        while len(self.used) < min(size, len(self.scene.things)):
            free = [i for i in range(len(self.scene.things)) if i not in self.used]
            clauses.append(self.clause_with(pick(self.generator, free), size - len(self.used) > 1))
        clauses.sort(key=lambda clause: clause.target is None)  # relations first, then what else there is
        return self.join(clauses)

    def join(self, clauses: list[Clause]) -> Caption:
        """Put the clauses into a sentence."""
        relations = sum(clause.target is not None for clause in clauses)
        if relations == 0:
            joints = (",",) * (len(clauses) - 2) + ("and",) if len(clauses) > 1 else ()
            return Caption(pick(self.generator, LIST_OPENINGS), tuple(clauses), joints)
        opening = pick(self.generator, CLAUSE_OPENINGS) if not any(clause.verb for clause in clauses) else ""
        joints = tuple(
            pick(self.generator, (", while", ", and") if k < relations else (", with", ", and also"))
            for k in range(1, len(clauses))
        )
        return Caption(opening, tuple(clauses), joints)

    def clause_about(self, point: Difference) -> Clause | None:
        """A clause that speaks of a point; None when its things were mentioned before."""
        if any(i in self.used for i in point.things):
            return None
        if point.kind == "relation":
            return self.relate(*point.things)
        return self.clause_with(point.things[0], True)

    def clause_with(self, i: int, with_relation: bool) -> Clause:
        """A clause that mentions thing ``i``, in a relation where that is wished for and possible."""
        things = self.scene.things
        free = [j for j in range(len(things)) if j != i and j not in self.used]
        alike = [j for j in free if things[j].colour == things[i].colour]
        if with_relation and alike and self.generator.random() < 0.3:
            return self.compare(i, pick(self.generator, alike))
        near = [j for j in free if relation_between(self.scene, i, j) is not None]
        if with_relation and near and self.generator.random() < 0.65:
            same_cell = [j for j in near if things[j].cell == things[i].cell]
            chosen = same_cell if same_cell and self.generator.random() < 0.5 else near
            return self.relate(i, pick(self.generator, chosen))
        return Clause(self.mention(i))

    def relate(self, i: int, j: int) -> Clause:
        """A clause that states how two things stand to each other, from either side."""
        if self.generator.random() < 0.5:
            i, j = j, i
        relation = relation_between(self.scene, i, j)
        assert relation is not None
        verb = pick(self.generator, ("", "is", "sits" if relation != "around" else "is"))
        return Clause(self.mention(i), verb, pick(self.generator, PHRASES[relation]), self.mention(j))

    def compare(self, i: int, j: int) -> Clause:
        """A clause that states that two things have one colour, without naming it twice."""
        if self.generator.random() < 0.5:
            i, j = j, i
        phrase = pick(self.generator, PHRASES["same colour"])
        return Clause(self.mention(i, colour=False), "is", phrase, self.mention(j))

    def mention(self, i: int, colour: bool = True) -> Mention:
        """A mention of a thing: at least two attributes, and those that are wanted."""
        self.used.add(i)
        allowed = [kind for kind in WORDS if colour or kind != "colour"]
        told = {kind for kind in allowed if self.generator.random() < ATTRIBUTE_ODDS[kind]}
        told |= self.wanted.get(i, set()) & set(allowed)
        while len(told) < 2:
            told.add(pick(self.generator, allowed))
        thing = self.scene.things[i]
        words = {kind: pick(self.generator, WORDS[kind][thing.value(kind)]) for kind in WORDS if kind in told}
        return Mention(**{"shape": pick(self.generator, NOUNS), **words})


def negate(caption: Caption, scene: Scene, generator: np.random.Generator) -> Negative | None:
    """Exchange one word or phrase of a caption so that it becomes false of the scene; None when no try succeeds.

    The new value is mostly one that the scene shows elsewhere: the words are then all there, bound to other things.
    """
    related = [k for k, clause in enumerate(caption.clauses) if RELATION_OF.get(clause.phrase) in OPPOSITE]
    spoken = [(k, m) for k, clause in enumerate(caption.clauses) for m in range(len(clause.mentions))]
    for _ in range(40):
        negative: Negative | None
        if related and generator.random() < 0.35:
            negative = _other_relation(caption, pick(generator, related), generator)
        else:
            negative = _other_value(caption, *pick(generator, spoken), scene, generator)
        if negative is not None and not is_true(negative.caption, scene, generous=True):
            return negative
    return None


def _replace_clause(caption: Caption, k: int, clause: Clause) -> Caption:
    """The caption with another clause in place ``k``."""
    return replace(caption, clauses=(*caption.clauses[:k], clause, *caption.clauses[k + 1 :]))


def _other_relation(caption: Caption, k: int, generator: np.random.Generator) -> Negative:
    """Another relation in clause ``k``, mostly the opposite."""
    clause = caption.clauses[k]
    before = RELATION_OF[clause.phrase]
    after = OPPOSITE[before] if generator.random() < 0.6 else pick(generator, [r for r in OPPOSITE if r != before])
    changed = replace(clause, phrase=pick(generator, PHRASES[after]))
    return Negative(_replace_clause(caption, k, changed), "relation", before, after)


def _other_value(caption: Caption, k: int, m: int, scene: Scene, generator: np.random.Generator) -> Negative | None:
    """Another value for one told attribute of mention ``m`` of clause ``k``; None when the scene offers no other."""
    clause = caption.clauses[k]
    mention = clause.mentions[m]
    kind, before = pick(generator, sorted(mention.told.items()))
    shown = generator.random() < 0.7
    values = {thing.value(kind) for thing in scene.things} if shown else set(WORDS[kind])
    others = sorted(values - {before})
    if not others:
        return None
    after = pick(generator, others)
    changed = replace(mention, **{kind: pick(generator, WORDS[kind][after])})
    new_clause = replace(clause, subject=changed) if m == 0 else replace(clause, target=changed)
    return Negative(_replace_clause(caption, k, new_clause), kind, before, after)
