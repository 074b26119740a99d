"""The slide map, the labels in the chapters, the contents and the landing page tell one story."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LABEL = re.compile(r"^\((S\d\d)\)=$", re.MULTILINE)
ROW = re.compile(r"^\| (S\d\d) \|[^|]*\| ([^|]*) \|$", re.MULTILINE)
LINK = re.compile(r"\{ref\}`(?:[^`<]*<)?(S\d\d)>?`")


def prose(path: Path) -> str:
    """Return the Markdown of a page or a notebook, cells apart by an empty line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def labels_in(pages: dict[str, str]) -> dict[str, list[str]]:
    """Return for each slide's label the pages that carry it, once for every time they do."""
    found: dict[str, list[str]] = {}
    for name, text in pages.items():
        for label in LABEL.findall(text):
            found.setdefault(label, []).append(name)
    return found


def disagreements(table: str, pages: dict[str, str]) -> list[str]:
    """Return every way in which the table and the labels in the pages contradict each other."""
    rows, labels = ROW.findall(table), labels_in(pages)
    complaints = []
    slides = [slide for slide, _ in rows]
    if slides != sorted(set(slides)):
        complaints.append(f"the table must list each slide once and in order, it lists {slides}")
    for slide, where in rows:
        if linked := LINK.findall(where):
            if linked[0] != slide:
                complaints.append(f"the row of {slide} links to {linked[0]}")
            if slide not in labels:
                complaints.append(f"the row of {slide} links to a section that no page has")
        elif "to come" not in where:
            complaints.append(f"the row of {slide} neither links to its section nor says that it is to come")
        elif slide in labels:
            complaints.append(f"the row of {slide} says it is to come, but {labels[slide][0]} has the section")
    for label, names in labels.items():
        if label not in slides:
            complaints.append(f"{names[0]} labels a section {label}, and the table has no such row")
        if len(names) > 1:
            complaints.append(f"{label} labels a section in each of {', '.join(names)}; give it to one")
    for name, text in pages.items():
        complaints += [
            f"{name}: the label {label} must stand directly above a heading, or nothing can link to it"
            for label in re.findall(r"^\((S\d\d)\)=\n(?!#)", text, re.MULTILINE)
        ]
    return complaints


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The Markdown of everything that may carry a slide's label."""
    return {path.name: prose(path) for path in [ROOT / "book/intro.md", *sorted((ROOT / "lectures").glob("*.ipynb"))]}


def test_the_slide_map_and_the_chapters_agree(pages):
    assert disagreements((ROOT / "book/slide_map.md").read_text(encoding="utf-8"), pages) == []


def wrong_chapters(table: str, pages: dict[str, str]) -> list[str]:
    """Return the slides whose row names another chapter than the one that has the section."""
    has = {label: name for name, text in pages.items() for label in LABEL.findall(text)}
    rows = dict(ROW.findall(table))
    numbers = {slide: re.match(r"(\d+) · ", where) for slide, where in rows.items()}
    return [
        slide
        for slide, number in numbers.items()
        if (int(number[1]) if number else None)
        != (int(has[slide][:2]) if slide in has and has[slide][:2].isdigit() else None)
    ]


def test_the_slide_map_names_the_chapter_of_each_section(pages):
    table = (ROOT / "book/slide_map.md").read_text(encoding="utf-8")
    assert wrong_chapters(table, pages) == []
    assert wrong_chapters(table.replace("| 3 · {ref}`S07`", "| 4 · {ref}`S07`"), pages) == ["S07"]
    assert wrong_chapters(table.replace("| 3 · {ref}`S07`", "| {ref}`S07`"), pages) == ["S07"]


SLIDES = [f"S{number:02}" for number in range(1, 25)]
TABLE = "\n".join(f"| {slide} | about | {{ref}}`{slide}` |" for slide in SLIDES)
PAGES = {"one.ipynb": "\n".join(f"({slide})=\n## Title\n" for slide in SLIDES)}


def test_a_table_and_pages_that_agree_raise_no_complaint():
    assert disagreements(TABLE, PAGES) == []
    more = TABLE + "\n| S25 | a slide of one's own | {ref}`S25` |"
    assert disagreements(more, {**PAGES, "two.ipynb": "(S25)=\n# Mine"}) == []


@pytest.mark.parametrize(
    ("table", "pages", "complaint"),
    [
        (TABLE, {"one.ipynb": PAGES["one.ipynb"].replace("(S07)=", "")}, "S07 links to a section that no page has"),
        (TABLE.replace("{ref}`S07`", "to come: chapter 3"), PAGES, "S07 says it is to come, but one.ipynb has"),
        (TABLE.replace("{ref}`S07`", "{ref}`S08`"), PAGES, "S07 links to S08"),
        (TABLE.replace("{ref}`S07`", "{ref}`the loss <S08>`"), PAGES, "S07 links to S08"),
        (TABLE.replace("{ref}`S07`", "soon"), PAGES, "S07 neither links"),
        (TABLE.replace("| S07 | about | {ref}`S07` |\n", ""), PAGES, "S07, and the table has no such row"),
        (TABLE.replace("| S07 | about | {ref}`S07` |", "| S08 | about | {ref}`S08` |"), PAGES, "once and in order"),
        ("\n".join(reversed(TABLE.splitlines())), PAGES, "once and in order"),
        (TABLE, {**PAGES, "two.ipynb": "(S07)=\n# Again"}, "S07 labels a section in each of one.ipynb, two.ipynb"),
        (TABLE, {**PAGES, "two.ipynb": "(S25)=\n# Beyond"}, "S25, and the table has no such row"),
        (TABLE, {"one.ipynb": PAGES["one.ipynb"].replace("(S07)=\n", "(S07)=\n\n")}, "S07 must stand directly above"),
    ],
)
def test_each_way_to_contradict_the_slide_map_is_found(table, pages, complaint):
    assert any(complaint in found for found in disagreements(table, pages))


def test_the_contents_list_every_notebook_and_only_pages_that_exist():
    def files(node):
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from files(child)

    listed = set(files(yaml.safe_load((ROOT / "book/_toc.yml").read_text(encoding="utf-8"))))
    notebooks = {f"lectures/{path.stem}" for path in (ROOT / "lectures").glob("*.ipynb")}
    assert {name for name in listed if name.startswith("lectures/")} == notebooks
    for name in listed - notebooks:
        assert (ROOT / f"{name}.md").is_file() or (ROOT / f"{name}.ipynb").is_file(), f"{name} is listed and missing"


def test_the_landing_page_has_a_card_for_every_chapter_with_its_number_and_a_link():
    text = (ROOT / "book/intro.md").read_text(encoding="utf-8")
    cards = re.findall(
        r"^:{4}\{grid-item-card\} (\d+) · (.+)\n:link: /lectures/(\S+)\n:link-type: doc$", text, re.MULTILINE
    )
    chapters = sorted((ROOT / "lectures").glob("[0-9]*.ipynb"))
    assert [stem for _, _, stem in cards] == [path.stem for path in chapters]
    for (number, title, _), path in zip(cards, chapters, strict=True):
        assert re.search(rf"^# {number}\. {re.escape(title)}$", prose(path), re.MULTILINE), (
            f"{path.stem}: {number} · {title}"
        )
    pictures = re.findall(r"^:img-top: (\S+)$", text, re.MULTILINE)
    assert [Path(picture).name[:2] for picture in pictures] == [path.name[:2] for path in chapters]
    assert all((ROOT / "book" / picture).is_file() for picture in pictures)
    assert "{doc}`errata </lectures/errata>`" in text
