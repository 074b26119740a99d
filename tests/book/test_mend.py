"""What book/_ext/access.py mends in the HTML of the pages, one fault at a time."""

import pytest

access = pytest.importorskip("access", reason="needs the extra [book]")


@pytest.mark.parametrize(
    ("faulty", "mended"),
    [
        ('<th class="head"><p></p></th><th>a</th>', "<td></td><th>a</th>"),
        ('<section id="exercise-content"><p>Why?</p>', '<section class="exercise-content"><p>Why?</p>'),
        (
            '<p class="admonition-title">Solution to<a class="reference internal" href="#a"> Exercise 3.1</a></p>',
            '<p class="admonition-title">Solution to <a class="reference internal" href="#a">Exercise 3.1</a></p>',
        ),
        ('<section id="exercises"><h2>', '<section id="exercises"><h2>'),
        (
            '<dl>\n<dd><em class="sig-param">a</em>,</dd>\n<dd><em class="sig-param">b</em></dd>\n</dl>',
            '<span class="sig-lines"><span class="sig-line"><em class="sig-param">a</em>,</span>\n'
            '<span class="sig-line"><em class="sig-param">b</em></span>\n</span>',
        ),
        ("<dl>\n<dt>a</dt>\n<dd>b</dd>\n</dl>", "<dl>\n<dt>a</dt>\n<dd>b</dd>\n</dl>"),
        (
            '<div class="citation" id="id5" role="doc-biblioentry">',
            '<div class="citation" id="id5" role="listitem">',
        ),
        ('<span class="p">)</span>  <span class="c1"># fmt: skip</span>\n', '<span class="p">)</span>\n'),
        ('<summary aria-label="Toggle hidden content">\n<p>Show', "<summary>\n<p>Show"),
        (
            '<button class="btn search-button-field a" title="Search" aria-label="Search" data-a="b"><i></i>',
            '<button class="btn search-button-field a" title="Search" data-a="b"><i></i>',
        ),
        (
            '<button class="btn search-button" aria-label="Search"><i></i>',
            '<button class="btn search-button" aria-label="Search"><i></i>',
        ),
        (
            '<i class="theme-switch fa-sun" data-mode="light" title="Light"></i>',
            '<i class="theme-switch fa-sun" data-mode="light"></i>',
        ),
        ('<li><button onclick="window.print()"><span>.pdf</span></button></li>', "<!-- pdf -->"),
    ],
)
def test_a_fault_is_mended_and_what_is_right_stays(faulty, mended):
    assert access.mend(faulty) == mended


def test_mathjax_leaves_pages_without_a_formula_alone():
    scripts = (
        '<script>window.MathJax = {"options": {}}</script>\n<script defer src="_static/mathjax/tex.js"></script>\n'
    )
    other = '<script src="_static/doctools.js"></script>'
    assert access.mend(f"{other}{scripts}<p>no formula</p>") == f"{other}<p>no formula</p>"
    with_formula = f'{other}{scripts}<span class="math notranslate">x</span>'
    assert access.mend(with_formula) == with_formula


def test_an_icon_is_kept_under_each_of_its_names():
    script = '{search:[512,512,["glass",128269],"f002","M1"],bars:[448,512,["navicon"],"f0c9",["M0","M2"]]}'
    assert access.keep_icons(script, {"glass"}) == '{search:[512,512,["glass",128269],"f002","M1"],}'
    assert access.keep_icons(script, {"search", "navicon"}) == script
    assert access.keep_icons(script, set()) == "{}"
