"""Pictures of runs, from the rows of metrics.jsonl. They need matplotlib; without it, a warning."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from experiments.report.table import LONG_NAMES
from experiments.run_folder.folder import Row
from experiments.run_folder.results import Results, is_share

# Okabe and Ito's colours, told apart by the colour-blind; the styles help where colour is not seen.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_BESIDE = {"frameon": False, "fontsize": 9, "loc": "center left", "bbox_to_anchor": (1, 0.5)}


def learning_curve(
    rows: Sequence[Row],
    path: str | os.PathLike,
    title: str,
    metric: str,
    results: Results | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    panels: Sequence[str] = (),
) -> None:
    """Draws the metric and the loss of training and validation against meta-steps.

    The loss has a panel of its own where it is another number than the metric.

    Args:
      rows: Rows of metrics.jsonl, with "train/loss", "train/METRIC" and "validation/METRIC".
      path: The picture; its suffix is the format.
      title: The text above it.
      metric: Name of the metric.
      results: What the run reached; the test's mean and 95% interval are drawn as a band.
      groups: For several replicas, label to the numbers of its replicas; each has a line, the mean
        over its seeds, in a band from the lowest to the highest.
      panels: The numbers that are drawn; () is the metric, and the loss where it is another.
    """
    same = rows and all(row.get("train/loss") == row.get(f"train/{metric}") for row in rows)
    names = panels or ((metric,) if same else (metric, "loss"))
    figure = new_figure(title, (5.5 * len(names), 3.8))
    if figure is None:
        return
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        if groups:
            _draw_groups(axes, name, rows, groups)
        else:
            _draw_run(axes, name, rows)
        if results is not None and results.test.get(name) is not None:
            _draw_test(axes, name, results.test)
        _finish(axes, name)
    figure.savefig(path, dpi=150)


def compare(
    curves: Mapping[str, Sequence[Row]],
    path: str | os.PathLike,
    title: str,
    name: str,
) -> None:
    """Draws one number of several runs against meta-steps; of labels "PANEL: ROW" a panel each.

    Args:
      curves: Label of a run to its rows of metrics.jsonl.
      path: The picture; its suffix is the format.
      title: The text above it.
      name: Name of the number in the rows, such as "validation/accuracy".
    """
    panels: dict[str, dict[str, Sequence[Row]]] = {} if curves else {"": {}}
    for label, rows in curves.items():
        panel, colon, row = label.partition(": ")
        panels.setdefault(panel if colon else "", {})[row if colon else label] = rows
    figure = new_figure(title, (5.5 * len(panels), 3.8))
    if figure is None:
        return
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (panel, of_rows) in zip(every, panels.items(), strict=True):
        for i, (label, rows) in enumerate(of_rows.items()):
            steps, values = finite_series(rows, name)
            if name.startswith("train/"):
                values = _smooth(values)
            axes.plot(steps, values, label=label, **line_style(i))
        axes.set_title(panel, fontsize=10)
        _finish(axes, name.replace("/", " "))
    figure.savefig(path, dpi=150)


def points(
    rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    path: str | os.PathLike,
    title: str,
    metric: str,
) -> None:
    """Draws a metric with its intervals, one line per method.

    Shares are in percent; where one is above 95%, the scale is stretched there, and what is
    beyond 0.1 or 99.9% is drawn there. What diverged is left out, and the label of the scale says
    so.

    Args:
      rows: Method to column to tests, the first of which is drawn: its metric and "ci95".
      path: The picture; its suffix is the format.
      title: The text above it.
      metric: Name of the metric.
    """
    figure = new_figure(title, (5.5 * 1.3 + 0.11 * max(map(len, rows)), 1.2 + 0.42 * len(rows)))
    if figure is None:
        return
    heads = [tests[0] for row in rows.values() for tests in row.values()]
    values = [test[metric] for test in heads if test[metric] is not None]
    highest = 1 if is_share(metric) else 10 * np.median(values)  # above it a seed diverged
    axes = figure.subplots()
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    for i, column in enumerate(columns):
        shift = 0.17 * (i - (len(columns) - 1) / 2)
        found = [(y, row[column][0]) for y, row in enumerate(rows.values()) if column in row]
        found = [(y, test) for y, test in found if test[metric] is not None]
        found = [(y, test) for y, test in found if test[metric] <= highest]
        places, arms = _placed(found, metric)
        axes.errorbar(
            places,
            [y + shift for y, _ in found],
            xerr=arms,
            fmt="os^D"[i % 4],
            color=COLORS[i % len(COLORS)],
            markersize=5,
            linewidth=1,
            label=column,
        )
    stretched = is_share(metric) and max(values) > 0.95
    if is_share(metric):
        ticks = [0.5, 0.6, 0.7, 0.8, 0.9]
        if stretched:
            axes.set_xscale("logit")
            ticks = [0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99]
            if axes.get_xlim()[0] > 0.8:
                ticks = [0.85, 0.9, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99]
        low, high = axes.get_xlim()
        ticks = [tick for tick in ticks if low <= tick <= high] or ticks
        axes.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    modes = any(len(tests) > 1 for row in rows.values() for tests in row.values())
    scale = " (logit scale)" if stretched else ""
    scale += ", without what diverged" * (len([v for v in values if v <= highest]) < len(heads))
    axes.set_xlabel(
        f"test {LONG_NAMES.get(metric, metric)}{', all queries at once' if modes else ''}{scale}"
    )
    frame(axes)
    axes.legend(**_BESIDE)
    figure.savefig(path, dpi=150)


def _placed(found, metric):
    """Values, and how far their intervals reach to both sides; shares stay where a logit is
    finite."""
    values, arms = (np.array([test[key] for _, test in found], float) for key in (metric, "ci95"))
    if not is_share(metric):
        return values, np.stack([arms, arms])
    values, low, high = (np.clip(x, 0.001, 0.999) for x in (values, values - arms, values + arms))
    return values, np.stack([values - low, high - values])


def fits(tasks: Sequence[Mapping[str, Any]], path: str | os.PathLike, title: str) -> None:
    """Draws regression tasks: the true curve, the support points, and what is predicted.

    Args:
      tasks: For each task "x" `[n]`, "true" `[n]`, "support" `([k], [k])`, and "predicted", a
        mapping from inner steps to `[n]`.
      path: The picture; its suffix is the format.
      title: The text above it.
    """
    figure = new_figure(title, (5.5 * len(tasks) / 1.8, 3.8))
    if figure is None:
        return
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True), tasks, strict=True):
        true = {"color": COLORS[-1], "linewidth": 2.5, "alpha": 0.3, "label": "true"}
        axes.plot(task["x"], task["true"], **true)
        for i, (steps, values) in enumerate(task["predicted"].items()):
            label = "before" if steps == 0 else f"{steps} step" + "s" * (steps > 1)
            axes.plot(task["x"], values, label=label, **line_style(i))
        axes.plot(*task["support"], "^", color=COLORS[3], label="support")
        axes.set_xlabel("x")
        frame(axes)
    figure.axes[0].set_ylabel("y")
    # Below on the left: on a phone the right part of a wide picture is out of sight.
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        *handles, frameon=False, fontsize=9, loc="outside lower left", ncols=len(handles[1])
    )
    figure.savefig(path, dpi=150)


def histogram(values: np.ndarray, path: str | os.PathLike, title: str, metric: str) -> None:
    """Draws how many test tasks got what, and their mean.

    Args:
      values: What each task got.
      path: The picture; its suffix is the format.
      title: The text above it.
      metric: Name of the metric.
    """
    figure = new_figure(title, (5.5, 3.0))
    if figure is None:
        return
    axes = figure.subplots()
    axes.hist(values, bins(values), color=COLORS[0], edgecolor=COLORS[0], alpha=0.6)
    axes.axvline(values.mean(), color=COLORS[1], linestyle="--", label="mean")
    if is_share(metric):
        # A bar around 100% ends above it, where there is nothing to read.
        axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g}%" if x < 1.001 else "")
    axes.set_xlabel(LONG_NAMES.get(metric, metric))
    axes.set_ylabel("test tasks")
    frame(axes)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def bins(values: np.ndarray) -> np.ndarray:
    """Edges of a histogram: a bin for each value where they are few and evenly spaced, else thirty.

    >>> bins(np.array([0.0, 0.5, 0.5, 1.0])).tolist()
    [-0.25, 0.25, 0.75, 1.25]

    Args:
      values: At least one number, all finite.
    """
    found = np.unique(values.astype(np.float64))
    if found.size > 1:
        step = np.diff(found).min()
        count = round((found[-1] - found[0]) / step)
        if count <= 80:
            return found[0] + step * (np.arange(count + 2) - 0.5)
    return np.histogram_bin_edges(values, 30)


def new_figure(title: str, inches: tuple[float, float]):
    """An empty figure of that width and height; None, after a warning, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logging.warning("no picture without matplotlib: pip install 'cml_jax[plots]'")
        return None
    # Not pyplot: it keeps figures alive and asks for a display.
    figure = Figure(figsize=inches, layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure


def line_style(i: int) -> dict[str, str]:
    """Colour and line style of the i-th line."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": _STYLES[i % len(_STYLES)]}


def finite_series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have a finite value."""
    pairs = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps), np.array(values, float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average over a twentieth of the run, narrower at the ends."""
    half = len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _draw_test(axes, name: str, test: Mapping[str, Any]) -> None:
    mean, half = test[name], test["ci95"]
    number = f"{mean:.2%} ± {half:.2%}" if is_share(name) else f"{mean:.3g} ± {half:.2g}"
    axes.axhline(mean, color=COLORS[2], linestyle="-.", label=f"test {number}")
    axes.axhspan(mean - half, mean + half, color=COLORS[2], alpha=0.15, linewidth=0)


def _draw_run(axes, name: str, rows: Sequence[Row]) -> None:
    steps, values = finite_series(rows, f"train/{name}")
    axes.plot(steps, values, color=COLORS[0], alpha=0.25, linewidth=0.8)
    axes.plot(steps, _smooth(values), color=COLORS[0], label="training")
    validated = finite_series(rows, f"validation/{name}")
    if len(validated[0]):
        axes.plot(*validated, "o--", color=COLORS[1], markersize=4, label="validation")


def _draw_groups(axes, name: str, rows: Sequence[Row], groups: Mapping[str, Sequence[int]]) -> None:
    split = "validation" if any(f"validation/{name}/0" in row for row in rows) else "train"
    for i, (label, members) in enumerate(groups.items()):
        # A replica that is not finite any more has no value: its line ends.
        values = [[row.get(f"{split}/{name}/{m}") for m in members] for row in rows]
        values = np.array(values, float)
        kept = np.isfinite(values).any(1)
        steps = np.array([row["step"] for row in rows])[kept]
        values = np.ma.masked_invalid(values[kept])
        if split == "train":
            values = np.stack([_smooth(v) for v in values.T], 1)
        style = line_style(i)
        seeds = f"{len(members)} seeds" if len(members) > 1 else ""
        label = ", ".join(filter(None, [split, label, seeds]))
        axes.plot(steps, values.mean(1), label=label, **style)
        axes.fill_between(
            steps, values.min(1), values.max(1), color=style["color"], alpha=0.15, linewidth=0
        )


def _finish(axes, label: str) -> None:
    axes.set_xlabel("meta-step")
    axes.set_ylabel(LONG_NAMES.get(label, label))
    values = [v for line in axes.get_lines() for v in line.get_ydata()]
    if is_share(label.rpartition(" ")[2]):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    elif values and max(values) > 20 * min(values) > 0:
        axes.set_yscale("log")
    frame(axes)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=9)


def frame(axes) -> None:
    """A light grid, and no lines above and to the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
