"""A page that is read offline: small functions that return HTML, all text escaped, and the one style sheet.

Nothing is asked of the network: no scripts, no fonts, no files; pictures are data inside the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

COLOURS = 5  # --c1 .. --c5 of the style sheet


def tag(name: str, content: str, **attributes: str | int | float) -> str:
    """An element around content that is HTML already; attribute values are escaped, ``class_`` is ``class``.

    Example:
        >>> tag("p", escape("a < b"), class_="note")
        '<p class="note">a &lt; b</p>'
    """
    return f"<{name}{_attributes(attributes)}>{content}</{name}>"


def empty_tag(name: str, **attributes: str | int | float) -> str:
    """An element without content, such as ``img``."""
    return f"<{name}{_attributes(attributes)}>"


def _attributes(values: dict[str, str | int | float]) -> str:
    return "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in values.items())


def text(name: str, content: str, **attributes: str | int | float) -> str:
    """An element around plain text."""
    return tag(name, escape(content), **attributes)


def section(anchor: str, title: str, *parts: str) -> str:
    """A section with its heading."""
    return tag("section", text("h2", title) + "".join(parts), id=anchor)


def bullets(items: Sequence[str]) -> str:
    """A list of plain sentences; nothing for none."""
    return tag("ul", "".join(text("li", item) for item in items)) if items else ""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    groups: str = "",
    strong: int | None = None,
    is_narrow: bool = False,
) -> str:
    """A table of plain texts whose first column names the rows; scrolls sideways where the page is narrow.

    Args:
        head: names of the columns.
        rows: cells of every row.
        groups: HTML of a row above the head.
        strong: position of the row that the page is about.
        is_narrow: less room between the rows.
    """
    titles = "".join(text("th", name, scope="col") for name in head)
    body = "".join(
        tag(
            "tr",
            text("th", row[0], scope="row") + "".join(text("td", cell) for cell in row[1:]),
            class_="strong" if k == strong else "plain",
        )
        for k, row in enumerate(rows)
    )
    kind = "wide narrow" if is_narrow else "wide"
    return tag("div", tag("table", tag("thead", groups + tag("tr", titles)) + tag("tbody", body)), class_=kind)


def page(title: str, body: str) -> str:
    """A whole HTML document; a letter that UTF-8 lacks, as in names of files that are not UTF-8, is shown by number."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">' + text("title", title) + tag("style", STYLE)
    )
    whole = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>{body}</main></body></html>\n'
    return whole.encode("utf-8", "backslashreplace").decode("utf-8")


STYLE = """
:root {
  --page: #faf9f6; --card: #ffffff; --ink: #1c2024; --soft: #59626c; --line: #e4e1da; --wash: #f2f0ea;
  --right: #0f7a55; --wrong: #b3471b;
  --c1: #1f5fbf; --c2: #b84a14; --c3: #0f7a55; --c4: #84389f; --c5: #8a6100;
  --b1: #1f5fbf; --b2: #c8521a; --b3: #0f7a55; --b4: #84389f; --b5: #8a6100; /* on pictures */
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131619; --card: #1a1e22; --ink: #e8eaec; --soft: #a3adb7; --line: #2c3238; --wash: #22272c;
    --right: #4cc79a; --wrong: #f0976b;
    --c1: #7fb0ff; --c2: #f59a68; --c3: #4cc79a; --c4: #d08bec; --c5: #e0b24a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 4rem 1.5rem 6rem; }
h1 { font-size: clamp(1.9rem, 5vw, 2.7rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 1rem; }
h1 { unicode-bidi: plaintext; } /* it may be a caption, in any script */
h2 { font-size: 1.45rem; line-height: 1.25; letter-spacing: -0.01em; margin: 0 0 .5rem; }
h3 { font-size: 1.02rem; margin: 2.25rem 0 .25rem; }
p { margin: .5rem 0; max-width: 44rem; }
section { margin-top: 4.5rem; }
.over { color: var(--soft); font-size: .85rem; letter-spacing: .08em; text-transform: uppercase; margin: 0 0 .75rem; }
.lead { font-size: 1.15rem; line-height: 1.6; max-width: 46rem; }
.soft, .note { color: var(--soft); font-size: .9rem; }
nav { margin-top: 1.75rem; display: flex; flex-wrap: wrap; gap: .4rem .5rem; font-size: .88rem; }
nav a {
  color: inherit; text-decoration: none; border: 1px solid var(--line); border-radius: 99px; padding: .2rem .8rem;
}
nav a:hover { background: var(--wash); }
a:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 2rem 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.25rem 1.4rem; }
.tiles b { display: block; font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.02em; font-weight: 650; }
.tiles span { display: block; color: var(--soft); font-size: .9rem; line-height: 1.45; }
.wide {
  overflow-x: auto; margin: 1.25rem 0; background: var(--card); border: 1px solid var(--line); border-radius: 14px;
}
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .6rem .85rem; text-align: right; white-space: nowrap; }
th[scope=row] { text-align: left; font-weight: inherit; }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem; }
thead th:first-child { text-align: left; }
thead th[colspan] { text-align: center; padding-bottom: 0; }
tbody tr { border-top: 1px solid var(--line); }
.narrow table { font-size: .88rem; }
.narrow th, .narrow td { padding: .32rem .85rem; }
tr.strong { font-weight: 650; background: var(--wash); }
.charts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; margin: 1.25rem 0;
}
.charts figure { margin: 0; }
.charts figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .5rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--soft); }
.query { margin: 1rem 0; }
.query blockquote { margin: 0 0 .9rem; font-size: 1.08rem; line-height: 1.5; }
.query .soft { margin: -.5rem 0 1rem; }
.found { display: grid; grid-template-columns: 1.15fr 5fr; gap: 1.1rem; }
.hits {
  display: grid; grid-template-columns: repeat(5, 1fr); gap: .7rem; padding-left: 1.1rem;
  border-left: 1px solid var(--line);
}
.pic { margin: 0; min-width: 0; }
.pic img {
  display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; border-radius: 9px;
  background: var(--wash);
}
.nopicture {
  display: grid; place-items: center; aspect-ratio: 1; border-radius: 9px; background: var(--wash); color: var(--soft);
  font-size: .75rem; overflow-wrap: anywhere; padding: .4rem; text-align: center;
}
.pic figcaption {
  font-size: .82rem; line-height: 1.35; color: var(--soft); margin-top: .5rem; font-variant-numeric: tabular-nums;
  white-space: pre-line;
}
.pic.right img, .pic.right .nopicture { box-shadow: 0 0 0 3px var(--card), 0 0 0 6px var(--right); }
.pic.right figcaption { color: var(--right); font-weight: 600; }
.pair { display: grid; grid-template-columns: minmax(0, 17rem) 1fr; gap: 1.75rem; align-items: start; margin: 1rem 0; }
.pair svg { border-radius: 10px; background: var(--wash); }
.pair svg text { font-weight: 700; fill: #fff; }
.words { display: flex; flex-wrap: wrap; gap: .5rem .3rem; margin: 0 0 1rem; line-height: 1.25; }
.word { border-radius: 7px; padding: .2rem .42rem .15rem; text-align: center; font-size: 1.05rem; position: relative; }
.word small { display: block; font-size: .72rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.word sup { font-size: .68rem; font-weight: 700; margin-left: .15rem; line-height: 0; }
.why { margin: 1.1rem 0 0; padding-top: 1rem; border-top: 1px solid var(--line); }
.why .words { margin: .5rem 0 0; }
.why .word { font-size: .95rem; }
pre {
  overflow-x: auto; background: var(--wash); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.2rem;
  font: .88rem/1.7 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
footer {
  margin-top: 5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem;
}
@media (max-width: 640px) {
  main { padding: 2.25rem 1rem 4rem; }
  section { margin-top: 3.25rem; }
  .card { padding: 1rem; }
  .found { grid-template-columns: 1fr; }
  .found > .pic { width: 40%; }
  .hits { grid-template-columns: repeat(3, 1fr); padding: 1rem 0 0; border-left: 0; border-top: 1px solid var(--line); }
  .pair { grid-template-columns: 1fr; gap: 1rem; }
}
@media print { body { background: #fff; } .card, .wide { break-inside: avoid; } nav { display: none; } }
"""
