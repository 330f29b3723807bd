"""Which classes of the test are confused most, and which are the hardest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report.document import Block, Table
from experiments.run_folder import folder

_KEPT = 30  # pairs and classes in the file
_SHOWN = 10  # on the page


def most_confused(counts: np.ndarray, names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The pairs of classes that are confused most, and the classes with the most errors.

    A pair is looked at in the tasks that have both of its classes: of their queries, the share that
    is taken for the other one. Pairs and classes stand in the order of the lower end of the share's
    95% interval, so that a rare one does not come first by a single error.

    Args:
      counts: Confusion matrices of tasks, `[tasks, ways, ways]`, rows the true classes.
      names: Of each task the names of its classes.

    Returns:
      "num_tasks"; "pairs", each with "classes" (two names), and "classes", each with "class": with
      "queries", and "wrong", how many of them are taken for the other, or for any other class.
    """
    queries, wrong = Counter(), Counter()
    for matrix, own in zip(counts, names, strict=True):
        of_class = matrix.sum(1)
        for i, name in enumerate(own):
            queries[name] += int(of_class[i])
            wrong[name] += int(of_class[i] - matrix[i, i])
            for j in range(i):
                pair = tuple(sorted((name, own[j])))
                queries[pair] += int(of_class[i] + of_class[j])
                wrong[pair] += int(matrix[i, j] + matrix[j, i])
    found = sorted((key for key in wrong if wrong[key]), key=str)
    found.sort(key=lambda key: -lower_end(wrong[key], queries[key]))
    numbers = {key: {"queries": queries[key], "wrong": wrong[key]} for key in found}
    return {
        "num_tasks": len(counts),
        "pairs": [{"classes": list(key)} | numbers[key] for key in found if isinstance(key, tuple)][
            :_KEPT
        ],
        "classes": [{"class": key} | numbers[key] for key in found if isinstance(key, str)][:_KEPT],
    }


def lower_end(count: int, of: int) -> float:
    """The lower end of Wilson's 95% interval of a share.

    >>> round(lower_end(1, 1), 2), round(lower_end(50, 100), 2), abs(lower_end(0, 9))
    (0.21, 0.4, 0.0)

    Args:
      count: How many.
      of: Of how many, 1 or more.
    """
    z, share = 1.96, count / of
    half = z * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return float((share + z**2 / (2 * of) - half) / (1 + z**2 / of))


def blocks(workdir: Path, left_out: list[str]) -> list[Block]:
    """Tables of the most confused pairs and of the hardest classes; [] where classes have no names.

    Args:
      workdir: The run's folder.
      left_out: Gets a line for what is not shown.
    """
    path = workdir / folder.CONFUSION
    if not path.exists():
        return []
    try:
        found = folder.read_json(path)
        pairs = [[" and ".join(map(str, row["classes"])), *_cells(row)] for row in found["pairs"]]
        classes = [[str(row["class"]), *_cells(row)] for row in found["classes"]]
        tasks = int(found["num_tasks"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        left_out.append(f"Confused classes: {path} is unreadable; run with --evaluate again.")
        return []
    if not pairs:
        return [f"No query of {tasks} test tasks is taken for another class."]
    about = f"in the first {tasks} test tasks, all queries at once"
    numbers = ["wrong", "queries", "share"]
    caption = f"The pairs most often taken for each other, {about}. Queries are those of both "
    caption += "classes in tasks that have both."
    return [
        Table(caption, ["classes", *numbers], pairs[:_SHOWN]),
        Table(f"The hardest classes, {about}", ["class", *numbers], classes[:_SHOWN]),
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    wrong, queries = int(row["wrong"]), int(row["queries"])
    return [str(wrong), str(queries), f"{wrong / queries:.1%}"]
