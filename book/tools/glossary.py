"""Which words of the glossary a chapter uses and links nowhere; with --write, link each at its first use.

Usage: python -m book.tools.glossary [--write] [NOTEBOOK...]
"""

import argparse
import re
import sys
from pathlib import Path

from book.tools.normalise import ROOT, normalise, read, rewrite, text_of

# Words that often mean something else than their entry says; a link is the author's to set.
AMBIGUOUS = {"positive", "negative", "view", "clip", "alignment", "uniformity", "fused", "shortcut", "connector"}
# Pages that use a word in another sense throughout: a verb, the encoder of a translation network.
OTHERWISE = {("06_convolution_to_vit", "embedding"), ("09_language_model", "encoder")}
# What is no running text within a line, or is a link already: headings, roles, links, mathematics, code, options.
CLOSED = re.compile(
    r"^:[\w-]+:.*$|^\([\w-]+\)=$|^#+ .*$|^\|.*$|<[^>\n]*>|\$\$.*?\$\$|(?<!\$)\$[^$\n]+\$"
    r"|\{[\w:]+\}`[^`]*`|`[^`\n]*`|!?\[[^\]]*\]\([^)]*\)",
    re.DOTALL | re.MULTILINE,
)
FENCE = re.compile(r"([`~:]{3,})(.*)")
PROSE = re.compile(r"\{(?:admonition|dropdown|tip|note|exercise|solution)\b")  # fences that hold running text
LINKED = re.compile(r"\{term\}`(?:[^`<]*<([^`>]+)>|([^`<]+))`")


def entries(glossary: str) -> list[str]:
    """Return the words of the glossary, the longest first, so that a part of one does not hide it."""
    inside = glossary.partition("```{glossary}\n")[2].partition("```")[0]
    return sorted((line for line in inside.splitlines() if line and not line.startswith(" ")), key=len, reverse=True)


def pattern(word: str) -> re.Pattern[str]:
    """Return what finds a word in running text, in the plural too; capitals as in the entry where it has any."""
    flags = re.IGNORECASE if word == word.lower() else 0
    plural = "(?:es)?" if word.endswith(("s", "ch", "x")) else "s?"
    return re.compile(rf"(?<![\w*-]){re.escape(word).replace(chr(92) + ' ', r'[ -]')}{plural}(?![\w-])", flags)


def linked(text: str) -> set[str]:
    """Return the entries that a text links, in small letters."""
    return {(explicit or short).strip().lower() for explicit, short in LINKED.findall(text)}


def without_fences(text: str) -> str:
    """Return a text of the same length in which code, and the lines that open and close a block, are blanks."""
    lines, stack = [], list[tuple[str, bool]]()  # the marks of the blocks that are open, and whether they hold prose
    for line in text.splitlines(keepends=True):
        match = FENCE.match(line)
        if match and stack and match[1].startswith(stack[-1][0]) and not match[2].strip():
            stack.pop()
        elif match and all(prose for _, prose in stack):
            stack.append((match[1], bool(PROSE.match(match[2]))))
        keep = match is None and all(prose for _, prose in stack)
        lines.append(line if keep else re.sub(r"[^\n]", " ", line))
    return "".join(lines)


def open_spans(text: str) -> list[tuple[int, int]]:
    """Return where a text is running text."""
    spans, last = [], 0
    for match in CLOSED.finditer(without_fences(text)):
        spans.append((last, match.start()))
        last = match.end()
    return [(start, end) for start, end in [*spans, (last, len(text))] if end > start]


def words_for(page: str) -> list[str]:
    """Return the words that a page has to link where it uses them."""
    words = entries((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    return [word for word in words if word not in AMBIGUOUS and (page, word) not in OTHERWISE]


def first_uses(cells: list[str], words: list[str]) -> dict[str, tuple[int, int, int]]:
    """Return for each word that is used and linked nowhere the cell, the start and the end of its first use."""
    there = set[str]().union(*map(linked, cells)) if cells else set()
    found: dict[str, tuple[int, int, int]] = {}
    taken: list[tuple[int, int, int]] = []
    for word in words:
        if word.lower() in there:
            continue
        uses = [
            (number, match.start(), match.end())
            for number, text in enumerate(cells)
            for start, end in open_spans(text)
            for match in pattern(word).finditer(without_fences(text), start, end)
        ]
        free = [use for use in uses if not any(use[0] == n and use[1] < e and s < use[2] for n, s, e in taken)]
        taken += uses  # a longer word owns all its places: "receptive field" is no use of "field"
        if free:
            found[word] = free[0]
    return found


def link(cells: list[str], words: list[str]) -> list[str]:
    """Return the cells with a link at the first use of each word that had none."""
    linked_cells = list(cells)
    for word, (number, start, end) in sorted(first_uses(cells, words).items(), key=lambda item: item[1], reverse=True):
        text = linked_cells[number]
        used = text[start:end]
        role = f"{{term}}`{used}`" if used == word else f"{{term}}`{used} <{word}>`"
        linked_cells[number] = text[:start] + role + text[end:]
    return linked_cells


def main(argv: list[str] | None = None) -> int:
    """List what is missing, or link it."""
    parser = argparse.ArgumentParser(description="Link words of the glossary at their first use on a page.")
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="link them")
    options = parser.parse_args(argv)
    wanted: dict[Path, str] = {}
    for path in options.notebooks or sorted((ROOT / "lectures").glob("*.ipynb")):
        nb = read(path)
        cells = [cell for cell in nb.cells if cell.cell_type == "markdown"]
        texts, words = [cell.source for cell in cells], words_for(path.stem)
        for word, (number, start, end) in first_uses(texts, words).items():
            around = " ".join(texts[number][max(0, start - 40) : end + 30].split())
            print(f"{path.stem}: {word}: … {around} …")
        for cell, text in zip(cells, link(texts, words), strict=True):
            cell.source = text
        wanted[path] = text_of(normalise(nb))
    return rewrite(wanted, check=not options.write, outdated="lacks links; run with --write", done="linked")


if __name__ == "__main__":
    sys.exit(main())
