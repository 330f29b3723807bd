"""A document as one HTML file: no script, no network, pictures inside."""

import base64
import html
import re
from pathlib import Path
from urllib.parse import quote

from experiments.report.document import (
    Block,
    Code,
    Document,
    Folded,
    Items,
    Picture,
    Section,
    Table,
)

_STYLE = Path(__file__).with_name("page.css")
_WIDE = 600  # points of an SVG, from which a phone scrolls it


def to_html(document: Document) -> str:
    """The document as HTML; whatever its texts contain is shown as it is.

    Args:
      document: The document; its pictures are read and put inside.

    Raises:
      OSError: A picture cannot be read.
    """
    title = html.escape(document.title)
    names = [(f"part-{i}", section) for i, section in enumerate(document.sections)]
    links = "".join(f'<a href="#{name}">{html.escape(s.title)}</a>' for name, s in names)
    numbers = "".join(
        f"<div><dt>{html.escape(n.name)}</dt><dd>{_escaped(n.value)}"
        f"<small>{html.escape(n.about)}</small></dd></div>"
        for n in document.numbers
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{html.escape(document.lead)}</p>
{f"<dl>{numbers}</dl>" if numbers else ""}
</header>
<nav aria-label="Sections">{links}</nav>
<main>
{"".join(_section(name, section) for name, section in names)}</main>
</body>
</html>
"""


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def _section(name: str, section: Section) -> str:
    blocks = "".join(map(_block, section.blocks))
    title = html.escape(section.title)
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{blocks}</section>\n'


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>\n"
    if isinstance(block, Items):
        lines = "".join(f"<li>{html.escape(line)}</li>\n" for line in block.lines)
        return f"<ul>\n{lines}</ul>\n"
    if isinstance(block, Code):
        return f'<pre tabindex="0"><code>{html.escape(block.text)}</code></pre>\n'
    if isinstance(block, Folded):
        inner = "".join(map(_block, block.blocks))
        title = html.escape(block.title)
        return f"<details>\n<summary>{title}</summary>\n{inner}</details>\n"
    return _table(block) if isinstance(block, Table) else _picture(block)


def _escaped(text: str) -> str:
    """The text as it is; a number stays on a line with its interval."""
    return html.escape(text).replace(" ± ", "&nbsp;±&nbsp;")


def _table(table: Table) -> str:
    caption = html.escape(table.caption)
    head = "".join(f'<th scope="col">{_escaped(cell)}</th>' for cell in table.header)
    rows = ""
    for first, *others in table.rows:
        cells = "".join(f"<td>{_escaped(cell)}</td>" for cell in others)
        rows += f'<tr><th scope="row">{_escaped(first)}</th>{cells}</tr>\n'
    return (
        '<div class="scroll" tabindex="0">\n<table>\n'
        f"{f'<caption><span>{caption}</span></caption>' if caption else ''}\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )


def _picture(picture: Picture) -> str:
    """The picture inside an `img`, where nothing in it can run."""
    content = picture.path.read_bytes()
    if picture.path.suffix == ".svg":
        text = content.decode("utf-8")
        width = re.search(r'<svg[^>]*\swidth="([\d.]+)pt"', text)
        kind = "wide" if width and float(width[1]) > _WIDE else "drawn"
        source = "data:image/svg+xml," + quote(text, safe=" !$&()*+,-./:;=?@_~|{}[]")
    else:
        kind = "paper"  # a white ground of its own
        source = "data:image/png;base64," + base64.b64encode(content).decode()
    return (
        f'<figure class="{kind}"><div class="scroll" tabindex="0">'
        f'<img src="{html.escape(source)}" alt="{html.escape(picture.alt)}"></div>'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>\n"
    )
