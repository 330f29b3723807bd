"""The numbers of analysis.json, a function for each analysis in `experiments.analyses`."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report.table import LONG_NAMES
from experiments.run_folder.results import is_share, steps_in_words

Arrays = Mapping[str, Any]


def cooperation(found: Arrays, metric: str) -> dict[str, Any]:
    """Cosines of each layer, and how often all of them are positive."""
    del metric
    layers = {}
    for name in in_order(found["tasks"]):
        tasks, batches = found["tasks"][name], found["batches"][name]
        layers[name] = {
            **_mean_sd(tasks),
            "positive": float((tasks > 0).mean()),
            "of_batches": _mean_sd(batches) | {"positive": float((batches > 0).mean())},
        }
    return {
        "layers": layers,
        "all_positive": float(found["tasks_hold"].mean()),
        "all_positive_of_batches": float(found["batches_hold"].mean()),
    }


def gradient_norms(found: Arrays, metric: str) -> dict[str, Any]:
    """The norm of each layer's gradient on both sets."""
    del metric
    return {
        part: {name: _mean_sd(found[part][name]) for name in in_order(found[part])}
        for part in ("support", "query")
    }


def similarity(found: Arrays, metric: str) -> dict[str, Any]:
    """CKA of each layer."""
    del metric
    return {name: _mean_sd(found[name]) for name in in_order(found)}


def features(found: Arrays, metric: str) -> dict[str, Any]:
    """Between-class shares of the features' variance."""
    del metric
    return {
        part: {when: _mean_sd(each[when]) for when in ("before", "after")}
        for part, each in found["shares"].items()
    }


def agreement(found: Arrays, metric: str) -> dict[str, Any]:
    """Weights in units of 1 / T, what goes along with them, and what they do to the step."""
    del metric
    weights = found["weights"] * found["weights"].shape[1]
    pairs = ~np.eye(weights.shape[1], dtype=bool)
    return {
        "weights": _mean_sd(weights)
        | {
            "min": float(weights.min()),
            "max": float(weights.max()),
            "negative": float((weights < 0).mean()),
        },
        "correlation": {
            "loss": correlation(weights, found["losses"]),
            "displacement_norm": correlation(weights, found["norms"]),
        },
        "task_cosines": _mean_sd(found["cosines"][:, pairs]),
        "step_length": _mean_sd(found["length"]),
        "step_cosine": _mean_sd(found["cosine"]),
    }


def adaptation(found: Arrays, metric: str) -> dict[str, Any]:
    """The metric after each number of inner steps, with 95% intervals."""
    values = found["values"]
    half = 1.96 * values.std(1, ddof=1) / np.sqrt(values.shape[1])
    return {
        "metric": metric,
        "num_steps": found["num_steps"].tolist(),
        "mean": values.mean(1).tolist(),
        "ci95": half.tolist(),
        "trained": found["trained"],
    }


def over_training(found: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    """The numbers of analyses that are followed over training, by their names in metrics.jsonl.

    Args:
      found: Arrays of "cooperation" and "agreement", either or both.

    Returns:
      Names, of which `analysis/cosine/LAYER` is one a layer, to scalars; NaN is not defined.
    """
    named: dict[str, float | None] = {}
    if "cooperation" in found:
        numbers = cooperation(found["cooperation"], "")
        for layer, about in numbers["layers"].items():
            named[f"cosine/{layer}"] = about["mean"]
            named[f"batch_cosine/{layer}"] = about["of_batches"]["mean"]
        named["all_positive"] = numbers["all_positive"]
        named["batch_all_positive"] = numbers["all_positive_of_batches"]
    if "agreement" in found:
        numbers = agreement(found["agreement"], "")
        named |= {f"weight_{name}": numbers["weights"][name] for name in ("min", "max", "negative")}
        named["weight_loss_correlation"] = numbers["correlation"]["loss"]
        named["weight_norm_correlation"] = numbers["correlation"]["displacement_norm"]
        for name in ("task_cosines", "step_length", "step_cosine"):
            named[name] = numbers[name]["mean"]
    return {f"analysis/{name}": np.array(value, float) for name, value in named.items()}


def in_words(name: str, numbers: Mapping[str, Any], num_tasks: int) -> str:
    """What an analysis shows, in a sentence.

    Args:
      name: Name of the analysis.
      numbers: What the function of this name returned.
      num_tasks: How many tasks were analysed.
    """
    return _WORDS[name](numbers, num_tasks)


def in_order(layers: Mapping[str, Any]) -> list[str]:
    """Names of layers as the network has them: by number, and a module after what it is made of.

    >>> in_order({"body": 0, "head": 0, "body/Dense_10": 0, "body/Dense_2": 0})
    ['body/Dense_2', 'body/Dense_10', 'body', 'head']
    """

    def key(name):
        parts = [re.split(r"(\d+)", part) for part in name.split("/")]
        return [(0, [int(p) if p.isdigit() else p for p in part]) for part in parts] + [(1, [])]

    return sorted(layers, key=key)


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation of two arrays; None where one of them does not vary."""
    x, y = (a.astype(np.float64).ravel() for a in (x, y))
    x, y = x - x.mean(), y - y.mean()
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / scale) if scale > 0 else None


def _mean_sd(values: np.ndarray) -> dict[str, float | None]:
    """Mean and standard deviation of what is a number."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return {"mean": None, "sd": None}
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=values.size > 1))}


def _said(number: float | None, form: str = ".2f") -> str:
    return "not defined" if number is None else format(number, form)


def _cooperation_in_words(numbers, num_tasks):
    low, high = _extremes(numbers["layers"], ".2f")
    return (
        f"Both gradients point the same way in every layer in {numbers['all_positive']:.0%} of "
        f"{num_tasks} tasks and in {numbers['all_positive_of_batches']:.0%} of their meta-batches; "
        f"over tasks the cosine is lowest in {low} and highest in {high}."
    )


def _gradient_norms_in_words(numbers, num_tasks):
    low, high = _extremes(numbers["query"], ".3g")
    return (
        f"The gradient that adaptation leaves over on the query sets of {num_tasks} tasks is "
        f"smallest in {low} and largest in {high}."
    )


def _similarity_in_words(numbers, num_tasks):
    low, high = _extremes(numbers, ".2f")
    return f"Over {num_tasks} tasks, adaptation changes {low} most and {high} least (CKA)."


def _features_in_words(numbers, num_tasks):
    means = [numbers["query"][when]["mean"] for when in ("before", "after")]
    before, after = (_said(mean, ".0%") for mean in means)
    if None not in means and min(means) > 0.99999:
        return "All variance of query features is between classes, as with one query of each."
    return (
        f"Between classes is {before} of the variance of query features before adaptation and "
        f"{after} after, over {num_tasks} tasks."
    )


def _agreement_in_words(numbers, num_tasks):
    about = numbers["correlation"]
    return (
        f"The weighted step is {_said(numbers['step_length']['mean'])} times as long as the mean, "
        f"at cosine {_said(numbers['step_cosine']['mean'])}; "
        f"{numbers['weights']['negative']:.0%} of the weights of {num_tasks} tasks are negative; "
        f"their correlation is {_said(about['loss'])} with the loss and "
        f"{_said(about['displacement_norm'])} with the displacement's length."
    )


def _adaptation_in_words(numbers, num_tasks):
    form = ".1%" if is_share(numbers["metric"]) else ".3g"
    said = dict(zip(numbers["num_steps"], numbers["mean"], strict=True))
    said = {steps: _said(value, form) for steps, value in said.items()}
    trained, most = numbers["trained"], numbers["num_steps"][-1]
    return (
        f"Over {num_tasks} tasks, {LONG_NAMES.get(numbers['metric'], numbers['metric'])} is "
        f"{said[0]} before adaptation, {said[trained]} after {steps_in_words(trained)} as in "
        f"training, and {said[most]} after {most}."
    )


def _extremes(layers, form) -> list[str]:
    """The layers with the lowest and the highest mean, each with it."""
    means = {name: each["mean"] for name, each in layers.items() if each["mean"] is not None}
    if not means:
        return ["no layer", "no layer"]
    found = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return [f"{name} ({means[name]:{form}})" for name in found]


_WORDS = {
    "cooperation": _cooperation_in_words,
    "gradient_norms": _gradient_norms_in_words,
    "similarity": _similarity_in_words,
    "features": _features_in_words,
    "agreement": _agreement_in_words,
    "adaptation": _adaptation_in_words,
}
