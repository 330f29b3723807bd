"""The pictures of analyses, a function for each; without matplotlib, a warning."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cml_jax.analysis import principal_components
from experiments.choices.key import ConfigError
from experiments.report.analysis_numbers import in_order
from experiments.report.plots import COLORS, frame, new_figure
from experiments.report.table import LONG_NAMES
from experiments.run_folder.results import is_share

_MARKERS = "os^Dv<>p"


def check_embedding(name: str) -> None:
    """Checks that features can be drawn by this embedding.

    Raises:
      ConfigError: It is "tsne", and scikit-learn is missing.
    """
    if name == "tsne" and importlib.util.find_spec("sklearn") is None:
        raise ConfigError("--embedding=tsne needs scikit-learn: pip install 'cml_jax[analysis]'")


def draw(
    name: str,
    found: Mapping[str, Any],
    numbers: Mapping[str, Any],
    path: Path,
    title: str,
    embedding: str = "pca",
) -> None:
    """Draws an analysis.

    Args:
      name: Name of the analysis.
      found: Its arrays, as `experiments.analyses` has them.
      numbers: Its entry in analysis.json.
      path: The picture; its suffix is the format.
      title: What is analysed.
      embedding: How features are drawn, "pca" or "tsne".
    """
    if name == "cooperation":
        title += (
            f"\npositive in every layer: {numbers['all_positive']:.0%} of tasks, "
            f"{numbers['all_positive_of_batches']:.0%} of batches"
        )
        series = {"a task": found["tasks"], "a meta-batch": found["batches"]}
        label = "cosine of head's and co-learner's gradients"
        _by_layer(series, path, title, label, line=0)
    elif name == "gradient_norms":
        series = {f"{part} set": found[part] for part in ("support", "query")}
        _by_layer(series, path, title, "gradient norm after adaptation", log=True)
    elif name == "similarity":
        label = "linear CKA before and after adaptation, on the query set"
        _by_layer({"": found}, path, title, label, line=1)
    elif name == "features":
        _features(found, path, title, embedding)
    elif name == "agreement":
        _agreement(found, numbers, path, title)
    else:
        _adaptation(numbers, path, title)


def _by_layer(
    series: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
    title: str,
    label: str,
    *,
    line: float | None = None,
    log: bool = False,
) -> None:
    """A row for each layer: the mean, and a line from the 5th to the 95th percentile.

    Args:
      series: Label to layer to values, whose shape does not matter.
      path: The picture.
      title: The text above it.
      label: Of the axis of values.
      line: Where a vertical line is drawn.
      log: Whether the axis of values is logarithmic.
    """
    names = in_order(next(iter(series.values())))
    figure = new_figure(title, (6.5, 1.6 + 0.27 * len(names)))
    if figure is None:
        return
    axes = figure.subplots()
    for i, (who, layers) in enumerate(series.items()):
        values = [np.asarray(layers[name], np.float64).ravel() for name in names]
        values = [v[np.isfinite(v)] for v in values]
        rows = [y for y, v in enumerate(values) if v.size]
        values = [v for v in values if v.size]
        at = np.array(rows) + 0.22 * (i - (len(series) - 1) / 2)
        color = COLORS[i]
        ends = [np.percentile(v, (5, 95)) for v in values]
        axes.hlines(at, *np.array(ends).T, color=color, linewidth=1.2, alpha=0.6)
        means = [v.mean() for v in values]
        axes.plot(means, at, _MARKERS[i], color=color, markersize=5, label=who)
    if line is not None:
        axes.axvline(line, color="0.5", linewidth=1, zorder=0)
    if log:
        axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(f"{label}\n(mean, 5th to 95th percentile)")
    frame(axes)
    if len(series) > 1:
        figure.legend(frameon=False, fontsize=9, loc="outside lower right", ncols=len(series))
    figure.savefig(path, dpi=150)


def _features(found: Mapping[str, Any], path: Path, title: str, embedding: str) -> None:
    """The features of the first task: support and query, before and after, each in its own plane.

    Args:
      found: As `experiments.analyses.features` has it.
      path: The picture.
      title: The text above it.
      embedding: "pca" or "tsne".
    """
    figure = new_figure(f"{title}: features of the first task", (7.0, 6.2))
    if figure is None:
        return
    for row, part in zip(figure.subplots(2, 2), ("support", "query"), strict=True):
        targets = found["targets"][part]
        for axes, when in zip(row, ("before", "after"), strict=True):
            points, about = plane(found["first"][part][when], embedding)
            for c in np.unique(targets):
                color, marker = COLORS[c % len(COLORS)], _MARKERS[c % len(_MARKERS)]
                axes.scatter(
                    *points[targets == c].T, s=28, marker=marker, color=color, label=f"class {c}"
                )
            share = found["shares"][part][when][0, 0]
            axes.set_title(
                f"{part} {when} adaptation\nbetween classes: {share:.0%}{about}", fontsize=9
            )
            axes.set_xticks([])
            axes.set_yticks([])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) <= 10:
        place = {"loc": "outside lower center", "ncols": 5}
        figure.legend(handles, labels, frameon=False, fontsize=9, **place)
    figure.savefig(path, dpi=150)


def plane(features: np.ndarray, embedding: str) -> tuple[np.ndarray, str]:
    """Coordinates of examples in a plane, `[n, 2]`, and what to say of them.

    Args:
      features: `[n, ...]`.
      embedding: "pca" or "tsne".
    """
    flat = features.reshape(len(features), -1)
    if min(flat.shape) < 2:  # a single example or feature
        flat = np.pad(flat, [(0, 0), (0, max(0, 2 - flat.shape[1]))])
        return flat[:, :2], ""
    if embedding == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30, (len(flat) - 1) / 3)
        embed = TSNE(perplexity=perplexity, init="pca", random_state=0)
        return embed.fit_transform(flat), ", t-SNE"
    points, shares = principal_components(flat)
    return np.asarray(points), f", in the plane: {float(shares.sum()):.0%}"


def _agreement(
    found: Mapping[str, Any], numbers: Mapping[str, Any], path: Path, title: str
) -> None:
    """Weights against losses and displacements, and the cosines between tasks of one batch."""
    length, cosine = (numbers[key]["mean"] for key in ("step_length", "step_cosine"))
    if length is not None and cosine is not None:
        title += f"\nthe weighted step: {length:.2f} x the mean's length, cosine {cosine:.2f}"
    figure = new_figure(title, (11.0, 3.7))
    if figure is None:
        return
    left, middle, right = figure.subplots(1, 3)
    weights = found["weights"] * found["weights"].shape[1]
    for axes, name, label, other in (
        (left, "losses", "query loss of the task", "loss"),
        (middle, "norms", "length of the task's displacement", "displacement_norm"),
    ):
        axes.plot(found[name].ravel(), weights.ravel(), "o", color=COLORS[0], ms=3.5, alpha=0.6)
        axes.axhline(1, color="0.5", linewidth=1, zorder=0)
        axes.axhline(0, color="0.5", linewidth=1, linestyle=":", zorder=0)
        r = numbers["correlation"][other]
        axes.set_title("" if r is None else f"correlation {r:.2f}", fontsize=9)
        axes.set_xlabel(label)
        frame(axes)
    left.set_ylabel("agreement weight, in units of 1/T")
    image = right.imshow(found["cosines"][0], cmap="PuOr", vmin=-1, vmax=1)
    right.set_title("cosines between the first batch's tasks", fontsize=9)
    right.set_xlabel("task")
    figure.colorbar(image, ax=right, shrink=0.8)
    figure.savefig(path, dpi=150)


def _adaptation(numbers: Mapping[str, Any], path: Path, title: str) -> None:
    """The metric against inner steps."""
    figure = new_figure(title, (5.5, 3.8))
    if figure is None:
        return
    axes = figure.subplots()
    metric, steps = numbers["metric"], numbers["num_steps"]
    axes.errorbar(
        steps,
        numbers["mean"],
        yerr=numbers["ci95"],
        fmt="o-",
        color=COLORS[0],
        markersize=4,
        label="mean and 95% interval over tasks",
    )
    axes.axvline(
        numbers["trained"], color=COLORS[1], linestyle="--", linewidth=1, label="as in training"
    )
    axes.set_xlabel("inner steps")
    axes.set_ylabel(LONG_NAMES.get(metric, metric))
    if is_share(metric):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    frame(axes)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
