"""What `experiments.analyze` found, for the report of a run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report import over_training, run_pictures
from experiments.report.analysis_numbers import in_words
from experiments.report.document import Block, Folded, Picture, Table
from experiments.report.themed import themed
from experiments.run_folder import folder
from experiments.run_folder.folder import Row

_MOST = 500_000  # bytes of pictures
_PNG = b"\x89PNG\r\n\x1a\n"
_SHOWN = {
    "cooperation": "Cosines between the meta-learner's and the co-learner's gradients, by layer",
    "gradient_norms": "Norm of each layer's gradient after adaptation",
    "similarity": "CKA of each layer before and after adaptation",
    "features": "Features of a task before and after adaptation",
    "agreement": "Agreement weights of tasks, and what the weighted sum does to the step",
    "adaptation": "The metric against inner steps",
}


def blocks_over_training(rows: Sequence[Row], workdir: Path) -> list[Block]:
    """A picture and a sentence of each analysis that was made while the run was trained.

    Args:
      rows: The rows of metrics.jsonl.
      workdir: The run's folder.
    """
    made: list[Block] = []
    for name in over_training.followed(rows):
        title, said = f"{name.capitalize()} over training", over_training.sentence(name, rows)
        with themed(run_pictures.path_of(workdir, f"{name}_over_training")) as path:
            over_training.draw(name, rows, path, "")
        made.append(Picture(path, f"{title}: {said}", f"{title}.") if path.exists() else title)
        made.append(said)
    return made


def blocks(workdir: Path, left_out: list[str]) -> list[Block]:
    """A picture, a sentence and the numbers of each analysis in the folder; [] without any.

    Args:
      workdir: The run's folder.
      left_out: Gets a line for what is not shown.
    """
    path = workdir / folder.ANALYSIS
    if not path.exists():
        return []
    try:
        found = folder.read_json(path)
    except ValueError as error:
        left_out.append(f"Analyses: {error}.")
        return []
    skipped = found.pop("left_out", {})
    if isinstance(skipped, Mapping):
        left_out += [f"Analysis {name}: {reason}." for name, reason in skipped.items()]
    about = {k: v for k, v in found.items() if not isinstance(v, Mapping)}
    made: list[Block] = [", ".join(f"{name} {value}" for name, value in about.items()) + "."]
    total = 0
    for name, numbers in found.items():
        if not isinstance(numbers, Mapping):
            continue
        title = _SHOWN.get(name, name)
        picture = workdir / folder.ANALYSIS_PICTURES / f"{name}.png"
        content = picture.read_bytes() if name in _SHOWN and picture.is_file() else b""
        total += len(content)
        if content.startswith(_PNG) and total <= _MOST:
            made.append(Picture(picture, title, f"{title}."))
        elif content:
            left_out.append(f"Picture {name}: no PNG, or more than {_MOST} bytes with the others.")
        if said := _sentence(name, numbers, found.get("num_tasks")):
            made.append(said)
        rows = [[label, value] for label, value in _leaves(numbers)]
        made.append(Folded(f"{title}: numbers", [Table("", ["what", "value"], rows)]))
    return made


def _sentence(name: str, numbers: Mapping[str, Any], num_tasks: Any) -> str:
    """What an analysis shows; "" where its numbers are not what this version writes."""
    try:
        return in_words(name, numbers, num_tasks)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return ""


def _leaves(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values; a mean and its standard deviation are one value."""
    if {"mean", "sd"} <= numbers.keys():
        yield prefix, f"{_number(numbers['mean'])}, sd {_number(numbers['sd'])}"
    for name, value in numbers.items():
        label = f"{prefix}: {name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _leaves(value, label)
        elif name not in ("mean", "sd") or isinstance(value, list):
            yield label, _number(value)


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
