"""A document of headings, text, tables and pictures, and its Markdown; `html.py` has its HTML."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote


class Table(NamedTuple):
    """A table of texts; the first cell of each row says what the row is about."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A picture in a file, SVG or PNG; `alt` says what is in it to who does not see it."""

    path: Path
    alt: str
    caption: str


class Items(NamedTuple):
    """A list of lines."""

    lines: Sequence[str]


class Code(NamedTuple):
    """What is typed or printed, as it is."""

    text: str


class Folded(NamedTuple):
    """What is shown when it is asked for."""

    title: str
    blocks: "Sequence[Block]"


Block = str | Table | Picture | Items | Code | Folded


class Section(NamedTuple):
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


class Number(NamedTuple):
    """A number that the document begins with."""

    name: str
    value: str
    about: str


class Document(NamedTuple):
    """A page.

    Attributes:
      title: Its heading.
      lead: A sentence below it.
      numbers: What it is about, in large type.
      sections: The rest.
    """

    title: str
    lead: str
    numbers: Sequence[Number]
    sections: Sequence[Section]


def in_words(value: Any) -> str:
    """The value of a setting.

    >>> in_words([1, 2]), in_words(None), in_words(0.4), in_words("")
    ('1, 2', '-', '0.4', '""')
    """
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return '""' if value == "" else str(value)


def to_markdown(document: Document, folder: Path) -> str:
    """The document in Markdown; whatever its texts contain is shown as it is.

    Args:
      document: The document.
      folder: Where the Markdown will be: pictures are named from there.
    """
    return _render(document, _escaped, folder)


def to_text(document: Document) -> str:
    """The document for a terminal: Markdown without escapes and without pictures."""
    return _render(document, _printable, None)


def _render(document, shown, folder):
    parts = [f"# {shown(document.title)}", shown(document.lead)]
    if document.numbers:
        parts.append(_table(["", "", ""], document.numbers, shown))
    for section in document.sections:
        blocks = list(filter(None, (_block(block, shown, folder) for block in section.blocks)))
        parts += [f"## {shown(section.title)}", *blocks] if blocks else []
    return "\n\n".join(parts) + "\n"


def _block(block: Block, shown, folder: Path | None) -> str:
    if isinstance(block, str):
        return shown(block)
    if isinstance(block, Items):
        return "\n".join(f"- {shown(line)}" for line in block.lines)
    if isinstance(block, Code):
        return "\n".join(f"    {_printable(line)}" for line in block.text.splitlines())
    if isinstance(block, Folded):
        inner = [_block(each, shown, folder) for each in block.blocks]
        return "\n\n".join([f"### {shown(block.title)}", *filter(None, inner)])
    if isinstance(block, Table):
        caption = f"{shown(block.caption)}\n\n" if block.caption else ""
        return caption + _table(block.header, block.rows, shown)
    if folder is None:
        return ""
    path = quote(block.path.relative_to(folder).as_posix())
    return f"![{shown(block.alt)}]({path})\n\n{shown(block.caption)}"


def _table(header, rows, shown) -> str:
    """Columns of one width, so that it is also read as text."""
    cells = [[shown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = (" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(f"| {line} |" for line in lines)


def _printable(text: str) -> str:
    """On one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _escaped(text: str) -> str:
    """Markdown that shows the text as it is."""
    text = _printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|]|(?<!\w)_|_(?!\w)|^[#+-](?=\s))", r"\\\1", text)
