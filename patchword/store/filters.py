"""Filters such as ``width > 1000 and taken >= '2024-01-01' and tag in ('beach', 'sea')``.

The grammar, loosest first; words of the grammar may be written in capitals:

    filter  := and-part ("or" and-part)*            and-part := not-part ("and" not-part)*
    not-part := "not" not-part | "(" filter ")" | test
    test    := column ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
             | column ["not"] "in" "(" value ("," value)* ")" | column ["not"] "between" value "and" value
             | column ["not"] "like" text | column "is" ["not"] "null"
    column  := letters, digits and "_", or any name in double quotes       value := number | 'text' ('' is a quote)

Nothing of a filter ever becomes SQL: names are looked up, values are bound. An image without a value in a column
passes only ``is null`` (and what ``or`` adds): ``tag != 'beach'`` is not true where there is no tag. In ``like``, ``%``
stands for any characters, ``_`` for one, and ASCII letters match in either case.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from patchword.config_keys import suggestion
from patchword.errors import ConfigError

TEXT, INTEGER, REAL = "text", "integer", "real"


@dataclass(frozen=True)
class Column:
    """A column that a filter may name.

    Attributes:
        sql: the expression that gives its value.
        type: ``text``, ``integer`` or ``real``.
    """

    sql: str
    type: str


BUILT_IN = {
    "id": Column("items.id", INTEGER),
    "path": Column("items.path", TEXT),
    "root": Column("roots.path", TEXT),
    "size": Column("items.size", INTEGER),
    "modified": Column("strftime('%Y-%m-%dT%H:%M:%S', items.mtime / 1000000000, 'unixepoch')", TEXT),
    "width": Column("items.width", INTEGER),
    "height": Column("items.height", INTEGER),
    "taken": Column("items.taken", TEXT),
    "camera": Column("items.camera", TEXT),
    "orientation": Column("items.orientation", INTEGER),
    "latitude": Column("items.latitude", REAL),
    "longitude": Column("items.longitude", REAL),
}
WORDS = ("and", "or", "not", "in", "like", "is", "null", "between")
MAX_LENGTH, MAX_DEPTH, MAX_VALUES = 20_000, 60, 10_000
MAX_HEIGHT, TEST_HEIGHT = 80, 12  # SQLite reads a statement with a stack of 100; what a test takes of it at most
_COMPARE = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
        |(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*")|(?P<name>[^\W\d]\w*)
        |(?P<mark><=|>=|<>|!=|==|[=<>(),]))""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Compiled:
    """A filter as parameterised SQL.

    Attributes:
        sql: a condition over ``items`` and ``roots``, with a ``?`` for every value.
        values: what the marks stand for.
    """

    sql: str
    values: list[str | int | float]


@dataclass
class _Token:
    kind: str  # number, text, column, word, mark or end
    text: str
    place: int


@dataclass(frozen=True)
class _Part:
    """SQL of a part of a filter, which stands by itself or in parentheses.

    Attributes:
        height: of SQLite's stack when it is read.
    """

    sql: str
    values: tuple[str | int | float, ...]
    height: int = TEST_HEIGHT


def compile_filter(expression: str, columns: Mapping[str, Column]) -> Compiled:
    """Parse a filter.

    Raises:
        ConfigError: it can not be read, names an unknown column, or compares a text with a number; in one line, with
            the place in the filter.
    """
    if len(expression) > MAX_LENGTH:
        raise ConfigError(f"the filter has {len(expression):,} characters. At most {MAX_LENGTH:,} are read.")
    parser = _Parser(expression, _tokens(expression), columns)
    part = parser.either(0)
    if parser.now.kind != "end":
        raise parser.unexpected("`and`, `or` or the end")
    if part.height > MAX_HEIGHT:
        raise ConfigError(
            "the filter is nested too deep for SQLite. Expected fewer `not` and parentheses within parentheses: write "
            "(a or b) or c as a or b or c, and many values of one column as: column in (1, 2, 3)."
        )
    return Compiled(part.sql, list(part.values))


def _joined(parts: Sequence[_Part], word: str) -> _Part:
    """Parts with ``AND`` or ``OR`` between them, as the lowest tree: a chain is as deep as it is long, and SQLite takes
    1,000 at most. The order does not matter; the higher part goes first, where it takes less of the stack."""
    waiting = [(part.height, number, part) for number, part in enumerate(parts)]
    heapq.heapify(waiting)
    for number in range(len(parts), 2 * len(parts) - 1):
        _, _, low = heapq.heappop(waiting)
        _, _, high = heapq.heappop(waiting)
        height = max(1 + high.height, 3 + low.height)
        made = _Part(f"({high.sql} {word} {low.sql})", high.values + low.values, height)
        heapq.heappush(waiting, (height, number, made))
    return waiting[0][2]


def _tokens(expression: str) -> list[_Token]:
    """Cut a filter into words, names, values and marks."""
    found: list[_Token] = []
    place, end = 0, len(expression.rstrip())
    while place < end:
        match = _TOKEN.match(expression, place)
        if match is None:
            start = place + len(expression[place:]) - len(expression[place:].lstrip())
            odd = expression[start]
            hint = " A text is closed with the quote it began with." if odd in "'\"" else ""
            raise ConfigError(
                f"the filter can not be read at character {start + 1}: {expression[start:][:20]!r}.{hint}"
            )
        kind, start = str(match.lastgroup), match.start(str(match.lastgroup))
        text = match.group(kind)
        if kind == "text":
            found.append(_Token("text", text[1:-1].replace("''", "'"), start))
        elif kind == "quoted":
            found.append(_Token("column", text[1:-1].replace('""', '"'), start))
        elif kind == "name":
            is_word = text.lower() in WORDS
            found.append(_Token("word" if is_word else "column", text.lower() if is_word else text, start))
        else:
            found.append(_Token(kind, text, start))
        place = match.end()
    return [*found, _Token("end", "", len(expression))]


@dataclass
class _Parser:
    """One function for each rule of the grammar; each returns what it read as SQL."""

    expression: str
    tokens: list[_Token]
    columns: Mapping[str, Column]
    values: list[str | int | float] = field(default_factory=list)  # of the test that is read
    count: int = 0  # of all values so far
    at: int = 0

    @property
    def now(self) -> _Token:
        return self.tokens[self.at]

    def take(self, kind: str, text: str | None = None) -> _Token | None:
        """Take the token here, if it is of this kind, and go on."""
        token = self.now
        if token.kind != kind or (text is not None and token.text != text):
            return None
        self.at += 1
        return token

    def need(self, kind: str, text: str) -> None:
        if self.take(kind, text) is None:
            raise self.unexpected(f"`{text}`")

    def unexpected(self, wanted: str) -> ConfigError:
        token = self.now
        found = "its end" if token.kind == "end" else f"{token.text!r} at character {token.place + 1}"
        return ConfigError(f"the filter {self.expression[:200]!r} has {found} where {wanted} is expected.")

    def either(self, depth: int) -> _Part:
        parts = [self.all_of(depth)]
        while self.take("word", "or"):
            parts.append(self.all_of(depth))
        return _joined(parts, "OR")

    def all_of(self, depth: int) -> _Part:
        parts = [self.negated(depth)]
        while self.take("word", "and"):
            parts.append(self.negated(depth))
        return _joined(parts, "AND")

    def negated(self, depth: int) -> _Part:
        if depth > MAX_DEPTH:
            raise ConfigError(f"the filter is nested more than {MAX_DEPTH} deep.")
        if self.take("word", "not"):
            inside = self.negated(depth + 1)
            return _Part(f"(NOT {inside.sql})", inside.values, inside.height + 2)
        if self.take("mark", "("):
            inside = self.either(depth + 1)
            self.need("mark", ")")
            return inside
        self.values = []
        sql = self.test()
        return _Part(sql, tuple(self.values))

    def test(self) -> str:
        token = self.take("column")
        if token is None:
            raise self.unexpected("a column")
        column = self.columns.get(token.text)
        if column is None:
            raise ConfigError(
                f"the filter names an unknown column {token.text!r}.{suggestion(token.text, list(self.columns))}"
            )
        if self.take("word", "is"):
            is_not = " NOT" if self.take("word", "not") else ""
            self.need("word", "null")
            return f"({column.sql} IS{is_not} NULL)"
        mark = self.take("mark") if self.now.text in _COMPARE else None
        if mark is not None:
            return f"({column.sql} {_COMPARE[mark.text]} {self.value(token.text, column)})"
        turned = "NOT " if self.take("word", "not") else ""
        if self.take("word", "in"):
            return f"({column.sql} {turned}IN ({self.listed(token.text, column)}))"
        if self.take("word", "between"):
            low = self.value(token.text, column)
            self.need("word", "and")
            return f"({column.sql} {turned}BETWEEN {low} AND {self.value(token.text, column)})"
        if self.take("word", "like"):
            if column.type != TEXT:
                raise ConfigError(f"`like` compares texts, and the column `{token.text}` is {_a(column.type)}.")
            return f"({column.sql} {turned}LIKE {self.value(token.text, column)})"
        raise self.unexpected("`=`, `<`, `in`, `like`, `between`, `is` or the like")

    def listed(self, name: str, column: Column) -> str:
        self.need("mark", "(")
        marks = [self.value(name, column)]
        while self.take("mark", ","):
            marks.append(self.value(name, column))
        self.need("mark", ")")
        return ", ".join(marks)

    def value(self, name: str, column: Column) -> str:
        """Bind the value here; it must be of the column's type."""
        token = self.take("text") or self.take("number")
        if token is None:
            if self.now.kind == "word" and self.now.text == "null":
                raise ConfigError(f"nothing equals null. Write: {name} is null, or {name} is not null.")
            if self.now.kind == "column":
                raise ConfigError(
                    f"the filter compares `{name}` with {self.now.text!r}, which is no value. Texts stand in single "
                    f"quotes: '{self.now.text[:40]}'."
                )
            raise self.unexpected("a number or a text in single quotes")
        if (token.kind == "text") != (column.type == TEXT):
            shown = f"'{token.text[:40]}'" if token.kind == "text" else token.text
            raise ConfigError(
                f"the column `{name}` is {_a(column.type)}, and {shown} is {_a(token.kind)}. "
                + (f"Write: '{token.text}'." if column.type == TEXT else "Write a number without quotes.")
            )
        self.count += 1
        if self.count > MAX_VALUES:
            raise ConfigError(f"the filter has more than {MAX_VALUES:,} values.")
        self.values.append(token.text if token.kind == "text" else _number(token.text))
        return "?"


def _number(text: str) -> int | float:
    """A number as SQLite holds it: 64-bit integers, everything else as a float."""
    value = float(text)
    if not re.fullmatch(r"[-+]?\d{1,19}", text):
        return value
    return int(text) if -(1 << 63) <= int(text) < (1 << 63) else value


def _a(kind: str) -> str:
    return {TEXT: "a text", INTEGER: "a number", REAL: "a number", "number": "a number"}[kind]
