"""Single modules of the page, called in the browser."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from page_visits import Pages, Visit, visiting
from playwright.sync_api import Page


@pytest.fixture(scope="module")
def opened(pages: Pages, album: str) -> Iterator[tuple[Visit, Page]]:
    """One page for all of these tests: they call what changes nothing in it."""
    with visiting(pages) as visit:
        yield visit, visit.open(album)


@pytest.fixture
def page(opened: tuple[Visit, Page]) -> Iterator[Page]:
    visit, page = opened
    yield page
    visit.check()


def run(page: Page, module: str, function: str, *arguments: Any) -> Any:
    """Call an exported function of a module."""
    code = "([path, name, given]) => import(path).then(module => module[name](...given))"
    return page.evaluate(code, [f"/static/{module}", function, list(arguments)])


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("", []),
        ("   ", []),
        ("a dog", [("a dog", 1)]),
        ("a dog:2", [("a dog", 2)]),
        ("a dog :0.5 ", [("a dog", 0.5)]),
        ("a dog -ball", [("a dog", 1), ("ball", -1)]),
        ("-ball a dog", [("a dog", 1), ("ball", -1)]),
        ('a dog +"in the sea":0.5 -snow:0.25', [("a dog", 1), ("in the sea", 0.5), ("snow", -0.25)]),
        ("-ball", [("ball", -1)]),
        ("-été", [("été", -1)]),
        ("a black-and-white dog", [("a black-and-white dog", 1)]),
        ("a dog - and a cat", [("a dog - and a cat", 1)]),
        ("a clock at 10:30", [("a clock at 10:30", 1)]),
        ("a dog:0", [("a dog:0", 1)]),
        ("a dog:99", [("a dog:99", 1)]),
        ('say "cheese"', [('say "cheese"', 1)]),
        ("a dog -ball -cat:2", [("a dog", 1), ("ball", -1), ("cat", -2)]),
    ],
)
def test_typed_words(page: Page, typed: str, parts: list[tuple[str, float]]) -> None:
    found = run(page, "query.js", "parseWords", typed)
    assert [(part["text"], part["weight"]) for part in found] == parts


def test_an_address_gives_its_state_back(page: Page) -> None:
    state = {
        "words": 'a dog & "cat" #1 +ü',
        "parts": [
            {"kind": "text", "text": "x:y:z\n%", "weight": -0.5},
            {"kind": "item", "id": 12, "weight": 1.5},
            {"kind": "file", "key": "abc", "name": "a:b?.png", "weight": 1},
        ],
        "filters": [
            {"column": "my stars", "how": "min", "value": "2"},
            {"column": "a.b", "how": "has", "value": "50%&"},
            {"column": "taken", "how": "until", "value": "2024-02-29"},
        ],
        "where": "width > 3 and tag = 'o''clock'",
        "mode": "fast",
        "threshold": -0.25,
        "open": 7,
    }
    address = run(page, "state.js", "writeState", state)
    assert run(page, "state.js", "readState", address) == state
    empty = run(page, "state.js", "emptyState")
    assert run(page, "state.js", "writeState", empty) == "./"
    assert run(page, "state.js", "readState", "") == empty


@pytest.mark.parametrize(
    "nonsense",
    [
        "?part=x&part=0:text:a&part=1:item:-3&part=1:item:a&part=1:file:x&part=1:other:2&part=NaN:text:a",
        "?open=-1&mode=other&threshold=abc&token=secret",
        "?min.width=abc&from.taken=2024-13-45&until.taken=now&is.=x&min.=3&has.tag=",
    ],
)
def test_nonsense_in_an_address_is_left_out(page: Page, nonsense: str) -> None:
    assert run(page, "state.js", "readState", nonsense) == run(page, "state.js", "emptyState")


@pytest.mark.parametrize(
    ("filters", "raw", "expected"),
    [
        ([], "", None),
        ([], " width > 1 or height > 1 ", "width > 1 or height > 1"),
        ([("width", "min", "10"), ("width", "max", "2e3")], "", "width >= 10 and width <= 2000"),
        ([("taken", "from", "2024-01-01"), ("taken", "until", "2024-02-29")], "",
         "taken >= '2024-01-01' and taken < '2024-03-01'"),
        ([("taken", "until", "9999-12-31")], "", "taken < '9999-12-31T24:00'"),
        ([("tag", "is", "o'clock")], "width > 1 or height > 1", "tag = 'o''clock' and (width > 1 or height > 1)"),
        ([("my stars", "min", "1"), ("or", "is", "x"), ('a"b', "has", "y")], "",
         """"my stars" >= 1 and "or" = 'x' and "a""b" like '%y%'"""),
    ],
)  # fmt: skip
def test_the_filter_expression(page: Page, filters: list[tuple[str, str, str]], raw: str, expected: str | None) -> None:
    given = [{"column": column, "how": how, "value": value} for column, how, value in filters]
    assert run(page, "where.js", "expression", given, raw) == expected


def test_expressions_of_the_form_are_read_by_the_index(page: Page, album: str) -> None:
    columns = page.request.get(f"{album}info").json()["columns"]
    for name, kind in columns.items():
        hows = {"integer": ("min", "max"), "real": ("min", "max"), "text": ("is", "has", "from", "until")}[kind]
        for how in hows:
            value = {"min": "1", "max": "1", "from": "2024-01-01", "until": "2024-01-01"}.get(how, 'it\'s "50%"')
            told = run(page, "where.js", "condition", name, how, value)
            answer = page.request.post(f"{album}search", data={"parts": [{"text": "a red star"}], "where": told})
            assert answer.status == 200, (told, answer.text())


def test_the_keyboard_stays_on_a_chip_whose_column_has_quotes(page: Page) -> None:
    code = """async filter => {
        const { showChips } = await import("/static/chips.js");
        const list = document.getElementById("chips"), state = {parts: [], filters: [filter], where: ""};
        showChips(list, state, () => {});
        list.querySelector("button").focus();
        showChips(list, state, () => {});
        const stays = list.contains(document.activeElement);
        list.replaceChildren();
        return stays;
    }"""
    assert page.evaluate(code, {"column": 'my "col"', "how": "has", "value": "x"})


def test_pieces_of_a_word_are_joined_and_marks_left_out(page: Page) -> None:
    tokens = [
        ("[CLS]", 0.1, True),
        ("fire", 0.2, False),
        ("##works", -0.05, False),
        (".", 0.01, False),
        ("▁at", 0, False),
    ]
    explained = {
        "score": 0.26,
        "words": [{"text": text, "part": part, "is_mark": mark} for text, part, mark in tokens],
        "parts": [[0.1, 0.0], [0.0, 0.2], [0.01, -0.06], [0.01, 0.0], [0.0, 0.0]],
        "boxes": None,
    }
    words = run(page, "lit.js", "joinWords", explained)
    assert [word["text"] for word in words] == ["fireworks", ".", "at"]
    assert words[0]["part"] == pytest.approx(0.15)
    assert (words[0]["rows"], words[0]["patch"], words[0]["isWord"], words[1]["isWord"]) == ([1, 2], 1, True, False)
    assert run(page, "lit.js", "heatOf", explained["parts"], [1, 2]) == pytest.approx([0.01, 0.14])


def test_words_of_nearly_the_same_patch_get_one_name(page: Page) -> None:
    boxes = [[0, 0, 0.5, 0.5], [0.02, 0.02, 0.5, 0.5], [0.6, 0.6, 1, 1], [0, 0, 1, 1]]
    words = [
        {"text": text, "part": part, "rows": [k], "patch": patch, "isWord": True}
        for k, (text, part, patch) in enumerate(
            [("red", 0.2, 0), ("is", 0.9, 2), ("star", 0.3, 1), ("sea", -0.5, 2), ("ring", 0.1, 2)]
        )
    ]
    found = run(page, "lit.js", "named", words, boxes)
    assert found == [{"patch": 1, "text": "red star"}, {"patch": 2, "text": "ring"}]


def test_the_light_is_clear_where_most_is_added_and_blue_where_it_is_taken(page: Page) -> None:
    boxes = [[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75], [0.75, 0.75, 1, 1]]
    code = """async ([heat, boxes]) => {
        const {drawLight} = await import("/static/lit.js");
        const canvas = document.createElement("canvas");
        drawLight(canvas, heat, boxes, 1, 0.6);
        const at = (x, y) => [...canvas.getContext("2d")
            .getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
        return [at(0.3, 0.3), at(0.1, 0.1), at(0.9, 0.1), at(0.9, 0.9)];
    }"""
    both, one, none, cold = page.evaluate(code, [[1.0, 1.0, -1.0], boxes])
    assert both[3] == 0  # where both patches lie, most is added
    assert 0 < one[3] < none[3]
    assert none[3] == round(255 * 0.6)
    assert cold[2] > cold[0] + 50
    dark = page.evaluate(code, [[0.0, 0.0, 0.0], boxes])
    assert {tuple(pixel) for pixel in dark} == {tuple(dark[0])}


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", "a␊b"), ("a\tb\x7f", "a␉b␡"), ("a\u202eb", "a[U+202E]b"), ("plain ü 写真.png", "plain ü 写真.png")],
)
def test_names_are_shown_with_what_is_hidden_in_them(page: Page, name: str, shown: str) -> None:
    assert run(page, "dom.js", "visible", name) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.999, "> 99 %"), (1, "100 %"), (0.004, "< 1 %"), (0, "0 %"), (0.5, "50 %")]
)
def test_percent(page: Page, value: float, shown: str) -> None:
    assert run(page, "dom.js", "percent", value) == shown


def test_weights_step_over_zero(page: Page) -> None:
    assert [run(page, "query.js", "step", *given) for given in ((0.5, -1), (-0.5, 1), (1, 1), (3, 1), (0.3, 1))] == [
        -0.5,
        0.5,
        1.5,
        3,
        1,
    ]


def test_modules_name_what_they_need_and_nothing_outside(page: Page) -> None:
    listing = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    for url in listing:
        if not url.endswith((".js", ".css", ".svg")):
            continue
        text = page.request.get(url).text()
        found = [line for line in text.splitlines() if "http://" in line or "https://" in line]
        assert all("http://www.w3.org/" in line for line in found), json.dumps(found)
        assert "innerHTML" not in text
