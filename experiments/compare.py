"""Runs side by side: `python -m experiments.compare runs/A runs/B --out=compared.html`.

Prints each run's test with its interval, the paired difference from the first run on the same test
tasks, and what differs in their settings. Runs that differ in the seed alone count as one with
several seeds: `experiments.compare a/0 a/1 b/0 b/1` compares a and b over two seeds. `--out` also
writes this, with the validation curves, as Markdown or HTML.
"""

import argparse
import sys
from pathlib import Path

from experiments.choices.key import ConfigError
from experiments.machine.printing import spell_what_cannot_be_printed
from experiments.report.comparison import comparison, read_runs, with_repeats
from experiments.report.document import to_markdown, to_text
from experiments.report.html import to_html
from experiments.run_folder import folder
from experiments.settings.command_line import fail


def main(arguments: list[str] | None = None) -> int:
    """Compares the runs that the command line names; returns the exit code."""
    spell_what_cannot_be_printed()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", metavar="FILE", help="FILE.md or FILE.html, written as well")
    asked = parser.parse_args(arguments)
    try:
        compare(asked.runs, asked.out)
    except (ConfigError, ValueError) as error:
        fail(error, 2)
    except OSError as error:
        fail(error, 1)
    return 0


def compare(runs: list[str], out: str | None = None) -> None:
    """Prints a comparison, and writes it.

    Args:
      runs: Folders of finished runs; all are compared with the first. Those that differ in the seed
        alone are one run with several seeds, unless there is nothing else to compare.
      out: A file that ends in .md or .html; its picture is written beside it as SVG.

    Raises:
      ValueError: There are fewer than two runs, one is not finished, or `out` ends otherwise.
      OSError: A file cannot be written.
    """
    path = Path(out).expanduser() if out else None
    if path is not None and path.suffix not in (".md", ".html"):
        raise ValueError(f"--out={out}: choose a name that ends in .md or .html")
    if len(runs) < 2:
        raise ValueError(f"only {runs[0]}: name two or more runs")
    each = read_runs([Path(run).expanduser() for run in runs])
    merged = with_repeats(each)
    document = comparison(
        merged if len(merged) > 1 else each,
        path.with_suffix(".svg") if path is not None else None,
    )
    print(to_text(document), end="")
    if path is not None:
        text = to_html(document) if path.suffix == ".html" else to_markdown(document, path.parent)
        folder.replace_file(path, text.encode())
        print(f"\nwritten: {path}")


if __name__ == "__main__":
    sys.exit(main())
