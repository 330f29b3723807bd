"""Pages of results: written by hand, with tables and pictures that are generated in between.

What stands between `<!-- generated: NAME -->` and `<!-- end -->` is generated; the rest is never
touched.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from experiments.report.table import markdown

_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
NEW_PAGE = """# {name}

<!-- generated: table -->
<!-- end -->

<!-- generated: pictures -->
<!-- end -->

## Found

## Commands

<!-- generated: commands -->
<!-- end -->
"""


class Words(NamedTuple):
    """What a page says in its own words.

    Attributes:
      title: Its first heading.
      question: The first paragraph after the title, on one line.
      found: The first paragraph after the heading "Found", on one line.
    """

    title: str
    question: str
    found: str


def fill(page: str, parts: Mapping[str, str]) -> str:
    """The page with its generated parts replaced.

    >>> page = "Before.\\n<!-- generated: table -->\\nold\\n<!-- end -->\\nAfter.\\n"
    >>> print(fill(page, {"table": "new"}), end="")
    Before.
    <!-- generated: table -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- end -->
    After.

    Args:
      page: The text of the page.
      parts: Name of a part to its text.

    Raises:
      ValueError: A part has no place in the page, or the page has a place for no part.
    """
    places = [match[2] for match in _PART.finditer(page)]
    if sorted(places) != sorted(parts) or page.count("<!-- generated") != len(places):
        raise ValueError(
            f"the page has places for {', '.join(places) or 'nothing'}, and there are "
            f"{', '.join(parts)}: write <!-- generated: NAME --> and <!-- end -->, each on a line "
            "of its own, once for each"
        )
    return _PART.sub(lambda match: f"{match[1]}\n{parts[match[2]]}\n\n{match[3]}", page)


def words(page: str) -> Words:
    """What a page says in its own words; "" for what it does not say.

    Args:
      page: The text of the page.
    """
    own = _PART.sub("", page)
    before, _, found = own.partition("\n## Found\n")
    title, _, rest = before.removeprefix("# ").partition("\n")
    return Words(title.strip(), _first_paragraph(rest), _first_paragraph(found))


def front(pages: Mapping[str, str]) -> str:
    """A table that leads to the pages: what each asks and what was found.

    Args:
      pages: Name of a page, without `.md`, to its text.
    """
    rows = []
    for name, text in pages.items():
        said = words(text)
        found = re.sub(r"\]\((\w+\.md)", r"](results/\1", said.found)  # links from one folder up
        rows.append([f"[{said.title}](results/{name}.md)", said.question, found])
    return markdown(["study", "question", "found"], rows)


def _first_paragraph(text: str) -> str:
    paragraph = text.strip().split("\n\n")[0]
    return "" if paragraph.startswith("#") else " ".join(paragraph.split())
