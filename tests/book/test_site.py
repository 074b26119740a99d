"""Buttons, addresses and furniture of the site: all from one setting, and nothing of it without."""

import ast
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import yaml
from docutils import nodes
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.tools import address as tool
from book.tools import package, site
from book.tools.address import address, hosted
from book.tools.first_cell import FORM, address_in, template, text_with_address, with_address
from book.tools.normalize import code_cells, read

ROOT = Path(__file__).parents[2]
import access  # noqa: E402
import finding  # noqa: E402
import furniture  # noqa: E402

CHAPTERS = sorted((ROOT / "lectures").glob("*.ipynb"))
NOTEBOOKS = [*CHAPTERS, *sorted((ROOT / "book" / "homework").glob("hw*.ipynb"))]
HERE = "https://github.com/owner/course"
PLACEHOLDER = re.compile(
    r"<(?:owner|user|your)[^>]*>|<[a-z ]*address>"
    r"|\b(?:OWNER|USERNAME|YOUR[-_]\w+)\b|(?:owner|user|you)/(?:course|repo|vlmcourse)\b"
)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("VLMCOURSE_REPOSITORY", "VLMCOURSE_BRANCH", "VLMCOURSE_SITE", "VLMCOURSE_JUPYTERHUB"):
        monkeypatch.delenv(name, raising=False)


# --- the setting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://github.com/owner/course.git", HERE),
        ("https://github.com/owner/course/", HERE),
        ("https://user:secret@github.com/owner/course.git", HERE),
        ("git@github.com:owner/course.git", HERE),
        ("ssh://git@github.com/owner/course", HERE),
        ("ssh://git@git.example.org:2222/group/sub/course.git", "https://git.example.org/group/sub/course"),
        ("/srv/course", None),
        ("../course", None),
        ("file:///srv/course.git", None),
        ("me@laptop:course", None),
        ("C:\\course", None),
        ("https://github.com", None),
        ("", None),
    ],
)
def test_only_a_hosting_service_counts_as_an_address_and_no_password_is_kept(remote, expected):
    assert hosted(remote) == expected


def test_the_address_is_the_variable_or_else_the_remote(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert address(tmp_path) is None
    subprocess.run([*git, "remote", "add", "origin", "/srv/course"], check=True)
    assert address(tmp_path) is None
    subprocess.run([*git, "remote", "set-url", "origin", "git@github.com:owner/course.git"], check=True)
    assert address(tmp_path) == HERE
    monkeypatch.setenv("VLMCOURSE_REPOSITORY", "https://gitlab.com/group/course")
    assert address(tmp_path) == "https://gitlab.com/group/course"
    monkeypatch.setenv("VLMCOURSE_REPOSITORY", "")
    assert address(tmp_path) is None
    monkeypatch.setenv("VLMCOURSE_REPOSITORY", "owner/course")
    with pytest.raises(SystemExit, match="must be https://host/owner/name"):
        address(tmp_path)


# --- first cells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_the_template(path):
    nb = read(path)
    cell = code_cells(nb)[0]
    match = FORM.match(cell.source)
    assert match, "the first code cell has not the form of the template"
    assert cell.source.startswith(template(match["imports"], address_in(nb)))
    assert "runtime with a GPU" in match[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_where_the_package_is_missing_a_first_cell_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vlmcourse", None)
    source = code_cells(read(path))[0].source
    for address_, said in ((None, r"run  pip install \.  and restart"), (HERE, rf"run  pip install git\+{HERE}  and")):
        with pytest.raises(ImportError, match=said):
            exec(with_address(source, address_, script=True), {})


def test_with_an_address_a_first_cell_installs_and_goes_on(monkeypatch):
    def install(magic, line):
        asked.append((magic, line))
        monkeypatch.setitem(sys.modules, "vlmcourse", package_)

    asked, package_ = [], types.SimpleNamespace(Chapter=lambda name: f"chapter {name}")
    monkeypatch.setitem(sys.modules, "vlmcourse", None)
    source = template("from vlmcourse import Chapter", HERE) + 'chapter = Chapter("x")\n'
    names = {"get_ipython": lambda: types.SimpleNamespace(run_line_magic=install)}
    exec(TransformerManager().transform_cell(source), names)
    assert asked == [("pip", f"install --quiet git+{HERE}")]
    assert names["chapter"] == "chapter x"


def test_all_notebooks_install_from_the_same_place():
    assert len(NOTEBOOKS) > len(CHAPTERS) > 0
    assert len({address_in(read(path)) for path in NOTEBOOKS}) == 1


def test_an_address_comes_into_a_first_cell_and_out_again_and_the_rest_stays():
    plain = template("from vlmcourse import Chapter", None) + 'chapter = Chapter("x")\n'
    told = with_address(plain, HERE)
    assert f"    %pip install --quiet git+{HERE}\n    from vlmcourse import Chapter\n" in told
    assert told.endswith('chapter = Chapter("x")\n')
    assert with_address(told, "https://other.org/a/b").count("https://") == 1
    assert with_address(told, None) == plain
    assert with_address("import torch\n", HERE) == "import torch\n"
    ast.parse(with_address(plain, HERE, script=True))
    assert f"pip install git+{HERE}" in with_address(plain, HERE, script=True)


def test_an_assignment_gets_an_address_and_keeps_its_marks():
    plain = (ROOT / "book" / "homework" / "hw1.ipynb").read_text(encoding="utf-8")
    told = text_with_address(nbformat.reads(plain, as_version=4), HERE)
    assert f"%pip install --quiet git+{HERE}" in told
    assert told.count('"nbgrader"') == plain.count('"nbgrader"') > 0
    assert (
        text_with_address(nbformat.reads(told, as_version=4), address_in(nbformat.reads(plain, as_version=4))) == plain
    )


def test_the_command_writes_the_address_into_chapters_and_badges_into_the_readme(tmp_path, monkeypatch, capsys):
    (tmp_path / "lectures").mkdir()
    path = tmp_path / "lectures" / "01_a.ipynb"
    cells = [new_markdown_cell("# A"), new_code_cell(template("import vlmcourse", None) + "vlmcourse")]
    nbformat.write(new_notebook(cells=cells), path)
    readme = tmp_path / "README.md"
    readme.write_text("# Course\n\n<!-- badges: make address -->\n<!-- end of badges -->\n\nText.\n")
    monkeypatch.setenv("VLMCOURSE_REPOSITORY", "")
    assert tool.main([], root=tmp_path) == 0
    before = path.read_text(), readme.read_text()
    assert "https://" not in "".join(before)
    monkeypatch.setenv("VLMCOURSE_REPOSITORY", HERE)
    assert tool.main(["--check"], root=tmp_path) == 1
    assert (path.read_text(), readme.read_text()) == before
    assert tool.main([], root=tmp_path) == 0
    assert address_in(read(path)) == HERE
    assert f"]({HERE}/actions/workflows/test.yml)" in readme.read_text()
    assert readme.read_text().endswith("\n\nText.\n")
    assert tool.main(["--check"], root=tmp_path) == 0
    monkeypatch.setenv("VLMCOURSE_REPOSITORY", "")
    assert tool.main([], root=tmp_path) == 0
    assert (path.read_text(), readme.read_text()) == before
    monkeypatch.setenv("VLMCOURSE_REPOSITORY", "github.com/uni/vision")
    with pytest.raises(
        SystemExit, match="VLMCOURSE_REPOSITORY must be https://host/owner/name, or nothing"
    ):  # no traceback
        tool.main([], root=tmp_path)


# --- buttons ------------------------------------------------------------------------------------------------


def test_without_an_address_the_configuration_is_as_it_was():
    text = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert site.config(text, None, None) == text
    assert "launch_buttons" not in text
    assert "repository" not in yaml.safe_load(text)


def test_with_an_address_the_theme_gets_what_its_buttons_need(monkeypatch):
    text = (ROOT / "_config.yml").read_text(encoding="utf-8")
    made = yaml.safe_load(site.config(text, HERE, "https://owner.org/course/"))
    assert made["repository"] == {"url": HERE, "branch": "main", "path_to_book": ""}
    assert made["html"]["use_issues_button"]
    assert made["html"]["baseurl"] == "https://owner.org/course/"
    assert set(made["launch_buttons"]) == {"notebook_interface", "colab_url", "binderhub_url"}
    assert made["sphinx"]["config"]["html_css_files"] == yaml.safe_load(text)["sphinx"]["config"]["html_css_files"]
    monkeypatch.setenv("VLMCOURSE_JUPYTERHUB", "https://hub.example.org")
    monkeypatch.setenv("VLMCOURSE_BRANCH", 'the "launch"')
    made = yaml.safe_load(site.config(text, "https://gitlab.com/group/course", None))
    assert "colab_url" not in made["launch_buttons"]  # it opens notebooks from GitHub alone
    assert made["launch_buttons"]["jupyterhub_url"] == "https://hub.example.org"
    assert made["repository"]["branch"] == 'the "launch"'
    made = yaml.safe_load(site.config(text, "https://git.example.org/group/course", None))
    assert "launch_buttons" not in made  # the theme knows no addresses of an unknown service


def theme_buttons() -> list[dict]:
    def group(label: str, *buttons: dict) -> dict:
        return {"label": label, "buttons": list(buttons)}

    return [
        group("launch-buttons", {"text": "Binder"}, {"text": "Colab"}),
        group("source-buttons", {"text": "Open issue", "label": "source-issues-button"}),
        group("download-buttons", {"text": ".ipynb"}, {"text": ".pdf"}),
    ]


def test_a_chapter_gets_kaggle_a_script_and_a_report_that_names_the_page():
    options = {"repository_url": HERE, "repository_branch": "main", "repository_provider": "github"}
    launch, source, download = buttons = theme_buttons()
    furniture.complete(buttons, "lectures/03_x", options, scripts=True, site="https://owner.org/course/")
    assert [button["text"] for button in launch["buttons"]] == ["Colab", "Kaggle", "Binder"]
    assert launch["buttons"][1]["url"].endswith(f"src={HERE}/blob/main/lectures/03_x.ipynb")
    assert [button["text"] for button in download["buttons"]] == [".ipynb", ".py", ".pdf"]
    assert download["buttons"][1]["url"] == "../_static/scripts/03_x.py"
    assert source["buttons"][0]["text"] == "Report a problem"
    form = source["buttons"][0]["url"].partition("template=")[2].partition("&")[0]
    fields = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / form).read_text(encoding="utf-8"))["body"]
    assert "page" in {field.get("id") for field in fields}  # which the button fills in
    assert source["buttons"][0]["url"].endswith("page=https%3A%2F%2Fowner.org%2Fcourse%2Flectures%2F03_x.html")


def test_without_an_address_only_downloads_are_added():
    buttons = [theme_buttons()[2]]
    furniture.complete(buttons, "lectures/03_x", {}, scripts=True, site="")
    assert "http" not in json.dumps(buttons)


# --- what is offered for download ---------------------------------------------------------------------------


def test_a_script_of_a_chapter_is_python_with_its_text_as_comments():
    cells = [
        new_markdown_cell("# Title\n\nText."),
        new_code_cell(template("import vlmcourse", None) + "vlmcourse"),
        new_code_cell("%timeit 1"),
        new_code_cell("x = 1"),
    ]
    text = site.script(new_notebook(cells=cells), HERE)
    ast.parse(text)
    assert "# # Title\n#\n# Text.\n" in text
    assert "# %timeit 1" in text
    assert "\n# %%\nx = 1\n" in text
    assert f"git+{HERE}" in text
    assert "://" not in site.script(new_notebook(cells=cells), None)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_is_python_as_a_script(path):
    lines = ast.parse(site.script(read(path), None)).body
    # Its first cell alone is a few lines: what is as short has lost its cells on the way, or is no chapter yet.
    assert len(lines) > 10, f"the code of {path.name} has {len(lines)} statements as a script: is it a chapter?"


# --- furniture ----------------------------------------------------------------------------------------------

BUTTON = '<a href="{}" target="_blank"\n   class="btn">'


@pytest.fixture
def rendered(tmp_path):
    tmp_path = tmp_path / "html"
    (tmp_path / "lectures").mkdir(parents=True)
    (tmp_path / "_static").mkdir()
    notebook, script = "../_sources/lectures/01_a.ipynb", "../_static/scripts/01_a.py"
    other = BUTTON.format("https://github.com/owner/course/blob/main/lectures/01_a.ipynb")
    page = BUTTON.format(notebook) + BUTTON.format(script) + other
    (tmp_path / "lectures" / "01_a.html").write_text(page)
    for name in ("search.html", "genindex.html", "_static/macros.html"):
        (tmp_path / name).write_text("")
    return tmp_path


def furnish(folder: Path) -> None:
    source = folder.with_name("source")
    (source / "book").mkdir(parents=True)
    (source / "_config.yml").write_text("title: A & B\n")
    (source / "book/_toc.yml").write_text("root: book/intro\n")
    site.furnish(folder, source)


def test_without_the_sites_address_nothing_names_one(rendered):
    furnish(rendered)
    assert not (rendered / "sitemap.xml").exists()
    assert not (rendered / "robots.txt").exists()
    for name in ("index.html", "404.html"):
        assert "://" not in (rendered / name).read_text()
    assert "canonical" not in (rendered / "index.html").read_text()
    assert (rendered / ".nojekyll").is_file()
    page = (rendered / "index.html").read_text()
    assert '<html lang="en">' in page
    assert "<title>A &amp; B</title>" in page
    assert '<a href="book/intro.html">' in page


def test_with_the_sites_address_there_is_a_sitemap_of_the_pages_that_are_read(rendered, monkeypatch):
    monkeypatch.setenv("VLMCOURSE_SITE", "https://owner.org/course")
    furnish(rendered)
    sitemap = (rendered / "sitemap.xml").read_text()
    assert re.findall("<loc>(.*?)</loc>", sitemap) == ["https://owner.org/course/lectures/01_a.html"]
    assert "Sitemap: https://owner.org/course/sitemap.xml" in (rendered / "robots.txt").read_text()
    assert 'href="https://owner.org/course/search.html"' in (rendered / "404.html").read_text()  # read at any depth


def test_notebook_and_script_are_downloaded_and_other_links_opened(rendered):
    page = access.mend((rendered / "lectures" / "01_a.html").read_text())
    assert page.count("download") == 2
    assert page.count("_blank") == 1


def test_an_address_of_the_site_is_taken_whole_or_refused(monkeypatch):
    assert site.address_of_site() is None
    monkeypatch.setenv("VLMCOURSE_SITE", "https://owner.org/course")
    assert site.address_of_site() == "https://owner.org/course/"
    monkeypatch.setenv("VLMCOURSE_SITE", "owner.org/course")
    with pytest.raises(SystemExit, match="VLMCOURSE_SITE must be"):
        site.address_of_site()


def section(title: str, *paragraphs: str, anchor: str = "there") -> nodes.section:
    text = [nodes.paragraph(paragraph, paragraph) for paragraph in paragraphs]
    return nodes.section("", nodes.title(title, title), *text, ids=[anchor])


def test_a_description_is_the_first_running_text_cut_at_a_word():
    page = section("Title", "Short.", "word " * 60)
    page.insert(1, nodes.admonition("", nodes.paragraph("", "Something in a box at the top of the page, long enough.")))
    document = nodes.document(None, None)
    document += page
    words = furniture.description(document)
    assert words.startswith("word word")
    assert words.endswith("word …")
    assert len(words) <= furniture.LONGEST
    assert furniture.description(nodes.document(None, None)) == ""


def test_tags_of_a_page_name_addresses_only_where_the_site_has_one():
    with_site = furniture.metatags('A "title"', "Words", "a.html", name="Book", site="https://owner.org/")
    assert 'content="A &quot;title&quot;"' in with_site
    assert 'content="https://owner.org/a.html"' in with_site
    assert "://" not in furniture.metatags("A", "Words", "a.html", name="Book", site="")


# --- finding ------------------------------------------------------------------------------------------------


def test_the_search_knows_what_a_section_says_itself_and_not_what_its_subsections_say():
    inner = section("Masks", "A causal mask hides the future.", anchor="masks")
    outer = section("Attention", "Weights of tokens, and tokens.", anchor="attention")
    outer += [inner, nodes.literal_block("", "softmax(scores)")]
    document = nodes.document(None, None)
    document += outer
    (anchor, title, titled, said), (below, _, _, said_below) = finding.sections(document, finding.SearchEnglish({}))
    assert (anchor, title, titled) == ("attention", "Attention", ["attent"])
    assert said["token"] == 2
    assert "mask" not in said
    assert "softmax" not in said
    assert below == "masks"
    assert said_below["mask"] == 1


def test_exercises_are_numbered_within_their_chapter():
    class Environment:
        toc_fignumbers = {  # noqa: RUF012
            "lectures/03_x": {"exercise": {"b": (9,), "a": (8,), "c": (10,)}, "figure": {"f": (1,)}},
            "lectures/errata": {"exercise": {"d": (11,)}},
            "book/other": {"exercise": {"e": (12,)}},
        }

    finding.number_exercises(None, Environment)
    numbers = {name: kinds["exercise"] for name, kinds in Environment.toc_fignumbers.items()}
    assert numbers["lectures/03_x"] == {"a": ("3", 1), "b": ("3", 2), "c": ("3", 3)}
    assert numbers["lectures/errata"] == {"d": ("E", 1)}
    assert numbers["book/other"] == {"e": (12,)}
    assert Environment.toc_fignumbers["lectures/03_x"]["figure"] == {"f": (1,)}


def test_every_paper_can_be_found_and_is_cited_somewhere():
    entries = re.split(r"\n(?=@)", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"))
    papers = {match[1]: entry for entry in entries if (match := re.match(r"@\w+\{([^,]+),", entry))}
    assert len(papers) > 50
    assert [key for key, entry in papers.items() if not re.search(r"\b(?:eprint|doi|url) = ", entry)] == []
    texts = [*ROOT.glob("book/**/*.md"), *CHAPTERS]
    cited = "".join("".join(re.findall(r"\{cite[a-z:]*\}`[^`]+`", path.read_text(encoding="utf-8"))) for path in texts)
    assert [key for key in papers if key not in cited] == []


# --- workflows and forms ------------------------------------------------------------------------------------

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_there_are_workflows_for_tests_the_book_and_releases():
    assert {"test", "book", "release", "gpu"} <= {path.stem for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_parses_and_calls_make_targets_that_exist(path):
    made = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert made.get("on", made.get(True))  # YAML 1.1 reads the key "on" as true
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    steps = [step for job in made["jobs"].values() for step in job.get("steps", [])]
    called = {name for step in steps for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert called, "no step calls make"
    assert called <= targets
    assert all("uses" in step or "run" in step for step in steps)


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_a_form_asks_for_something_and_names_each_field_once(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        return
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert form["name"]
    assert form["description"]
    assert len(names) == len(set(names)) > 0
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_form_for_problems_asks_for_the_machine_in_both_ways():
    text = (ROOT / ".github" / "ISSUE_TEMPLATE" / "problem.yml").read_text(encoding="utf-8")
    assert "This build" in text
    assert "vlmcourse doctor" in text


WHOLE = [
    "vlmcourse/py.typed",
    "vlmcourse/weights/a.safetensors",
    "vlmcourse/results/a.json",
    "a/LICENSE",
    "a/LICENSE-TEXT.md",
]


def test_a_package_that_lacks_something_or_has_another_version_is_not_released():
    assert package.faults(WHOLE, "0.2.0", "v0.2.0") == []
    assert package.faults(WHOLE, "0.2.0", "v0.3.0") == ["the tag is v0.3.0, and pyproject.toml says version 0.2.0"]
    assert package.faults(WHOLE[1:], "0.2.0", None) == ["the wheel lacks vlmcourse/py.typed"]
    assert package.faults([*WHOLE, "vlmcourse/homework/sources/hw1.md"], "0.2.0", None)


# --- no address that nobody set -----------------------------------------------------------------------------

PAGES = [*ROOT.glob("*.md"), *(ROOT / "book").rglob("*.md"), *ROOT.glob(".github/**/*.yml"), *CHAPTERS]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_page_prints_a_placeholder_for_an_address(path):
    assert PLACEHOLDER.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text", ["git clone https://github.com/<owner>/course", "pip install git+x/you/course", "OWNER"]
)
def test_a_placeholder_is_found(text):
    assert PLACEHOLDER.search(text)


def test_the_card_of_the_site_has_the_size_that_cards_have():
    from PIL import Image

    assert Image.open(ROOT / "book" / "_static" / "book.png").size == (1200, 630)


def test_a_second_title_does_not_describe_a_page():
    nodes = pytest.importorskip("docutils.nodes")
    page = nodes.section()
    page += nodes.paragraph(
        "", "A second title below the title, which says little about the page", classes=["under-title"]
    )
    page += nodes.paragraph("", "The first words of the running text, which say what a reader finds here")
    assert furniture.description(page).startswith("The first words")
