"""The front table of docs/results.md: one cell for a method on a data set, beside the papers'."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.report import cells
from experiments.report.table import markdown, number
from experiments.run_folder.results import Results, is_share
from experiments.studies.front import Shown

_LEGEND = (
    "Ours, all queries at once, and in parentheses the published number. ✓: the intervals of the "
    "two overlap; ▲ and ▼: ours is better or worse by more than that."
)


def front_table(shown: Sequence[Shown], results: Path) -> str:
    """The table, in Markdown; what is not stored yet is "-".

    Args:
      shown: Its cells.
      results: The folder of the studies' stored runs.
    """
    stored = {
        name: cells.load_ended(results / f"{name}.json") for name in {one.study for one in shown}
    }
    columns = list(dict.fromkeys(one.column for one in shown))
    rows: dict[str, dict[str, str]] = {}
    for one in shown:
        entry = stored[one.study].get(one.label)
        text = cell(cells.results_of(entry), one) if entry else "-"
        link = f"[{text}](results/{one.study}.md)" if entry else text
        rows.setdefault(one.row, {})[one.column] = link
    table = [[row, *(own.get(column, "") for column in columns)] for row, own in rows.items()]
    return f"{markdown(['', *columns], table)}\n\n{_LEGEND}"


def cell(run: Results, shown: Shown) -> str:
    """Ours, the published number, and how they compare.

    Args:
      run: The results.
      shown: What to show of them.
    """
    tests: Sequence[Mapping] = [run.test, *run.test_all]
    wanted = shown.num_steps or run.test["num_steps"]
    test = next(t for t in tests if t["num_steps"] == wanted and t["transductive"])
    ours = number(run.metric, test)
    if shown.published is None:
        return ours
    value, half = shown.published
    theirs = number(run.metric, {run.metric: value, "ci95": half})
    theirs = theirs if half else theirs.partition(" ")[0]
    gap = test[run.metric] - value
    better = gap > 0 if is_share(run.metric) else gap < 0
    mark = "✓" if abs(gap) <= test["ci95"] + half else "▲" if better else "▼"
    return f"{ours} ({theirs}) {mark}"
