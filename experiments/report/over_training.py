"""Analyses over training, from the rows of metrics.jsonl: pictures, and what they show in words."""

import re
from collections.abc import Sequence
from pathlib import Path

from experiments.report.analysis_numbers import in_order
from experiments.report.plots import COLORS, finite_series, frame, line_style, new_figure
from experiments.run_folder.folder import Row

_LAYER = "analysis/batch_cosine/"
_MOST_LAYERS = 8  # that have a line each
_FEW = 4  # lines whose names have room beside them


def followed(rows: Sequence[Row]) -> list[str]:
    """The analyses that a run has made over training: "cooperation", "agreement", both or none.

    Args:
      rows: The rows of metrics.jsonl.
    """
    marks = {"cooperation": "analysis/all_positive", "agreement": "analysis/step_length"}
    return [name for name, mark in marks.items() if any(row.get(mark) is not None for row in rows)]


def draw(name: str, rows: Sequence[Row], path: Path, title: str) -> None:
    """Draws an analysis against meta-steps; of several replicas the mean.

    Args:
      name: "cooperation" or "agreement".
      rows: The rows of metrics.jsonl.
      path: The picture; its suffix is the format.
      title: The text above it.
    """
    panels = _cooperation(rows) if name == "cooperation" else _agreement(rows)
    most = max(map(len, panels.values()))
    figure = new_figure(title, (4.6 * len(panels), 3.6 + (0.1 * most if most > _FEW else 0)))
    if figure is None:
        return
    for axes, (label, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for i, (line, number) in enumerate(lines.items()):
            steps, values = finite_series(rows, f"analysis/{number}")
            axes.plot(steps, values, label=line, **line_style(i))
        axes.set_xlabel("meta-step")
        axes.set_ylabel(label)
        low, high = axes.get_ylim()
        if low < 0 < high:
            axes.axhline(0, color=COLORS[-1], linewidth=0.8, alpha=0.5, zorder=0)
        frame(axes)
        if len(lines) <= _FEW:
            axes.legend(frameon=False, fontsize=8)
        else:
            handles = axes.get_legend_handles_labels()
            figure.legend(*handles, frameon=False, fontsize=8, loc="outside lower left", ncols=3)
    figure.savefig(path, dpi=150)


def sentence(name: str, rows: Sequence[Row]) -> str:
    """What an analysis shows over training.

    Args:
      name: "cooperation" or "agreement".
      rows: The rows of metrics.jsonl.
    """
    return _say_cooperation(rows) if name == "cooperation" else _say_agreement(rows)


def layers(rows: Sequence[Row]) -> list[str]:
    """The layers whose cosines are followed, in the network's order.

    >>> layers([{"analysis/batch_cosine/body/0": 0.1, "analysis/batch_cosine/body/0/1": 0.2}])
    ['body/0']

    Args:
      rows: The rows of metrics.jsonl, where `LAYER/1` is the value of a replica.
    """
    found = {n.removeprefix(_LAYER) for row in rows for n in row if n.startswith(_LAYER)}
    own = {name for name in found if re.sub(r"/\d+$", "", name) not in found - {name}}
    return in_order(dict.fromkeys(own))


def _cooperation(rows):
    names = layers(rows)
    if len(names) > _MOST_LAYERS:  # evenly spaced, the first and the last among them
        last = len(names) - 1
        names = [names[round(i * last / (_MOST_LAYERS - 1))] for i in range(_MOST_LAYERS)]
    return {
        "cosine of the two gradients, by layer": {n: f"batch_cosine/{n}" for n in names},
        "share with all layers positive": {
            "meta-batches": "batch_all_positive",
            "tasks": "all_positive",
        },
    }


def _agreement(rows):
    del rows
    return {
        "agreement weight, in units of 1/T": {"largest": "weight_max", "smallest": "weight_min"},
        "share or correlation": {
            "negative weights": "weight_negative",
            "weight and loss": "weight_loss_correlation",
            "weight and displacement": "weight_norm_correlation",
        },
        "weighted step beside the mean": {"length": "step_length", "cosine": "step_cosine"},
    }


def _say_cooperation(rows):
    steps, holds = finite_series(rows, "analysis/batch_all_positive")
    values = {layer: finite_series(rows, _LAYER + layer)[1] for layer in layers(rows)}
    *_, (layer, cosines) = ((layer, v) for layer, v in values.items() if len(v))
    return (
        f"Over {len(steps)} analyses, both gradients of a meta-batch point the same way in every "
        f"layer in {holds.mean():.0%} of cases, at least {holds.min():.0%} "
        f"(step {steps[holds.argmin()]}); their cosine in {layer} goes from {cosines[0]:.2f} to "
        f"{cosines[-1]:.2f}."
    )


def _say_agreement(rows):
    def ends(number, form=".2f"):
        _, values = finite_series(rows, f"analysis/{number}")
        if not len(values):
            return "is not defined"
        return f"goes from {values[0]:{form}} to {values[-1]:{form}}"

    return (
        f"The weighted step's length {ends('step_length')} times the mean's, and the share of "
        f"negative weights {ends('weight_negative', '.0%')}; the weights' correlation with the "
        f"loss {ends('weight_loss_correlation')}, and with the displacement's length "
        f"{ends('weight_norm_correlation')}."
    )
