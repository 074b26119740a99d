"""Which words of the glossary a chapter or a page uses and links nowhere; with --write, link each at its first use.

Usage: python -m book.tools.glossary [--write] [FILE...]
"""

import argparse
import re
import sys
from pathlib import Path

from nbformat import NotebookNode

from book.tools.normalise import ROOT, chapters, normalise, read, rewrite, text_of

# Words that often mean something else than their entry says; a link is the author's to set.
AMBIGUOUS = {"positive", "negative", "view", "clip", "alignment", "uniformity", "fused", "shortcut", "connector"}
# Pages that use a word in another sense throughout: a verb, the encoder of a translation network.
OTHERWISE = {
    ("02_vision_encoders", "decoder"),
    ("06_convolution_to_vit", "embedding"),
    ("09_language_model", "encoder"),
}
# What is no running text within a line, or is a link already: headings, roles, links, mathematics, code, options.
CLOSED = re.compile(
    r"^:[\w-]+:[^\n]*$|^\([\w-]+\)=$|^#+ [^\n]*$|^\|[^\n]*$|<[^>\n]*>|\$\$.*?\$\$|(?<!\$)\$[^$\n]+\$"
    r"|\{[\w:]+\}`[^`]*`|`[^`\n]*`|!?\[[^\]]*\]\([^)]*\)",
    re.DOTALL | re.MULTILINE,
)
BLANK = "\0"
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


def running_text(text: str) -> str:
    """Return a text of the same length in which only running text is left, and all else is blank."""
    lines, stack = [], list[tuple[str, bool]]()  # the marks of the blocks that are open, and whether they hold prose
    for line in text.splitlines(keepends=True):
        match = FENCE.match(line)
        if match and stack and match[1].startswith(stack[-1][0]) and not match[2].strip():
            stack.pop()
        elif match and all(prose for _, prose in stack):
            stack.append((match[1], bool(PROSE.match(match[2]))))
        keep = match is None and all(prose for _, prose in stack)
        lines.append(line if keep else re.sub(r"[^\n]", BLANK, line))
    return CLOSED.sub(lambda closed: BLANK * len(closed[0]), "".join(lines))


def words_for(page: str) -> list[str]:
    """Return the words that a page has to link where it uses them."""
    words = entries((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    return [word for word in words if word not in AMBIGUOUS and (page, word) not in OTHERWISE]


def first_uses(cells: list[str], words: list[str]) -> dict[str, tuple[int, int, int]]:
    """Return for each word that is used and linked nowhere the cell, the start and the end of its first use."""
    there = {(explicit or short).strip().lower() for explicit, short in LINKED.findall("\n\n".join(cells))}
    texts = [running_text(cell) for cell in cells]
    found: dict[str, tuple[int, int, int]] = {}
    for word in (word for word in words if word.lower() not in there):
        uses = [(number, match.span()) for number, text in enumerate(texts) for match in pattern(word).finditer(text)]
        if uses:
            number, span = uses[0]
            found[word] = (number, *span)
        # A longer word owns all its places: "receptive field" is no use of "field".
        texts = [pattern(word).sub(lambda use: BLANK * len(use[0]), text) for text in texts]
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


def pages() -> list[Path]:
    """Return the pages of the book that are no chapters; the glossary itself needs no links to itself."""
    return [page for page in sorted((ROOT / "book").glob("*.md")) if page.stem != "glossary"]


def prose(path: Path) -> tuple[NotebookNode | None, list[str]]:
    """Return the notebook, if the file is one, and the pieces of Markdown in it."""
    if path.suffix == ".md":
        return None, [path.read_text(encoding="utf-8")]
    nb = read(path)
    return nb, [cell.source for cell in nb.cells if cell.cell_type == "markdown"]


def main(argv: list[str] | None = None) -> int:
    """List what is missing, or link it."""
    parser = argparse.ArgumentParser(description="Link words of the glossary at their first use on a page.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="link them")
    options = parser.parse_args(argv)
    wanted: dict[Path, str] = {}
    for path in options.files or [*chapters(), *pages()]:
        (nb, texts), words = prose(path), words_for(path.stem)
        for word, (number, start, end) in first_uses(texts, words).items():
            around = " ".join(texts[number][max(0, start - 40) : end + 30].split())
            print(f"{path.stem}: {word}: … {around} …")
        linked = iter(link(texts, words))
        if nb is None:
            wanted[path] = next(linked)
            continue
        for cell in (cell for cell in nb.cells if cell.cell_type == "markdown"):
            cell.source = next(linked)
        wanted[path] = text_of(normalise(nb))
    return rewrite(wanted, check=not options.write, outdated="lacks links; run with --write", done="linked")


if __name__ == "__main__":
    sys.exit(main())
