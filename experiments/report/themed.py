"""Pictures for light and for dark ground: SVG without a ground, in the ink of the reader."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

_INK = """<style>
svg { color: #1a1a1a; fill: currentColor; --blue: #0072b2 }
@media (prefers-color-scheme: dark) { svg { color: #e6e6e6; --blue: #3d9fe0 } }
</style>"""


@contextlib.contextmanager
def themed(path: Path) -> Iterator[Path]:
    """What is drawn to the path inside follows the reader's colour scheme.

        with themed(workdir / "curve.svg") as path:
            learning_curve(rows, path, ...)

    Black is the ink, which is light where the reader prefers dark; blue is lighter there. Text
    stays text, and is never read as mathematics. Without matplotlib there is no file afterwards.

    Args:
      path: An SVG; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        import matplotlib
    except ImportError:
        yield path
        return
    settings = {
        "font.size": 11,
        "savefig.transparent": True,
        "svg.fonttype": "none",
        "svg.hashsalt": path.name,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that only the reader's fonts have
        yield path
    if path.exists():
        path.write_text(with_readers_ink(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_readers_ink(svg: str) -> str:
    """An SVG of matplotlib whose black follows the colour scheme.

    Args:
      svg: The content of the file.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(?<=[:\"])\s*#000000\b", " currentColor", svg)
    svg = re.sub(r"(?<=[:\"])\s*#0072b2\b", " var(--blue)", svg)  # dark on dark
    return re.sub(r"(<svg\b[^>]*>)", lambda match: match[1] + _INK, svg, count=1)
