"""What a run has reached: one schema of results.json, for training and for linear probing."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.run_folder import folder

Test = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What results.json holds.

    A test is a dict with the mean of the metric under the metric's name, "sd", "ci95", "num_tasks"
    and, over several seeds, "num_seeds" (see `interval`); "predicts", who predicts; "num_steps",
    the inner steps; "transductive", whether all queries are predicted at once; and "run", which
    value of a swept setting it is of, where there are several.

    Attributes:
      method: Name of the method.
      weighting: How tasks are weighted, or None where nothing weighs them.
      co_learner: Name of CML's co-learner, or None where there cannot be one.
      data: Name of the data set.
      protocol: Ways, shots, queries, inner steps, tasks per step, meta-steps, and how the
        checkpoint was chosen.
      split_hash: Digest of the class lists (and of the graph); "" for procedural tasks.
      graph: Sizes and class split of the graph, or None.
      images: Number, shape, and counts of classes of a set of images, from where they are, how
        they were resized, and how many are identical.
      validation: The metric's value and the "step" of the checkpoint that was tested.
      test: The test that counts; one of `test_all`.
      test_all: Every test that was made.
      seed: Seed of the run.
      wall_seconds: Seconds of training, or None where they are not known.
      warnings: One line for each sign that something went wrong.
      plan: The layout on the devices, in words.
      versions: Package to version.
      runs: For several runs side by side, what each was and reached.

    Optional entries (those with a default) are left out of the file where they are None.
    """

    method: str
    weighting: str | None = None
    co_learner: str | None = None
    data: str
    protocol: Mapping[str, Any] | None = None
    split_hash: str
    graph: Mapping[str, Any] | None
    images: Mapping[str, Any] | None = None
    validation: Mapping[str, Any]
    test: Test
    test_all: Sequence[Test]
    seed: int
    wall_seconds: float | None
    warnings: Sequence[str] | None = None
    plan: str | None = None
    versions: Mapping[str, str] | None = None
    runs: Sequence[Mapping[str, Any]] | None = None

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return next(name for name in self.validation if name != "step")

    def __str__(self) -> str:
        """`98.53% ± 0.21% (1000 tasks, 1 inner step, meta-learner)`."""
        modes = len({test["transductive"] for test in self.test_all})
        return describe(self.metric, self.test, modes > 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Results":
        """The results from the entries of results.json.

        Args:
          values: What `to_dict` returned, perhaps by way of a file.

        Raises:
          TypeError: Entries are missing, unknown or of another shape.
        """
        try:
            results = cls(**{"graph": None} | dict(values))  # older files lack it
            str(results)
        except (ArithmeticError, AttributeError, LookupError, StopIteration, ValueError) as error:
            raise TypeError(f"not the entries of results.json ({error})") from None
        return results

    def to_dict(self) -> dict[str, Any]:
        """The entries of results.json."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {k: v for k, v in values.items() if v is not None or k not in _OPTIONAL}

    def write(self, workdir: str | os.PathLike) -> Path:
        """Writes results.json, whole or not at all.

        Args:
          workdir: The run's folder; it is made.

        Returns:
          The file.

        Raises:
          OSError: It could not be written.
        """
        path = Path(workdir, folder.RESULTS)
        folder.write_json(path, self.to_dict())
        return path


_OPTIONAL = {
    each.name for each in dataclasses.fields(Results) if each.default is not dataclasses.MISSING
}


def read_results(workdir: str | os.PathLike) -> Results:
    """Reads the results.json of a run.

    Args:
      workdir: The run's folder.

    Raises:
      ValueError: The file is missing or damaged, or entries are missing or unknown.
    """
    path = Path(workdir, folder.RESULTS)
    try:
        return Results.from_dict(folder.read_json(path))
    except TypeError:
        raise ValueError(
            f"{path} is not what this version writes: delete it to have it made again"
        ) from None


def versions() -> dict[str, str]:
    """Package to version, of this project and of what it computes with."""
    import cml_jax

    others = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return others | {"cml_jax": cml_jax.__version__}


def interval(metric: str, values: Any) -> dict[str, float | int]:
    """The mean of a metric and its 95% interval.

    Over the tasks of one seed the half-width is 1.96 sd / sqrt(tasks); over the means of several
    seeds it is t sd / sqrt(seeds), with Student's t of seeds - 1 degrees of freedom.

    >>> interval("mse", [1.0, 2.0, 3.0])["mse"]
    2.0

    Args:
      metric: Name of the metric.
      values: `[tasks]` of one seed, or `[seeds, tasks]`.

    Returns:
      The mean (under `metric`), "sd" (ddof 1), "ci95" (the half-width), "num_tasks" (of one seed)
      and, for several seeds, "num_seeds".
    """
    values = np.asarray(values, np.float64)
    report = {"num_tasks": values.shape[-1]}
    factor = 1.96
    if values.ndim == 2 and len(values) > 1:
        from scipy import stats

        report |= {"num_seeds": len(values)}
        values = values.mean(1)
        factor = float(stats.t.ppf(0.975, len(values) - 1))
    values = values.reshape(-1)
    sd = float(values.std(ddof=1))
    half = factor * sd / np.sqrt(values.size)
    return {metric: float(values.mean()), "sd": sd, "ci95": float(half)} | report


def is_share(metric: str) -> bool:
    """Whether a metric is a share of one, which is shown in percent.

    >>> is_share("accuracy"), is_share("validation/accuracy"), is_share("mse")
    (True, True, False)
    """
    return metric.rpartition("/")[2].endswith("accuracy")


def steps_in_words(num_steps: int) -> str:
    """A number of inner steps.

    >>> steps_in_words(0), steps_in_words(1), steps_in_words(3)
    ('no inner steps', '1 inner step', '3 inner steps')
    """
    return f"{num_steps or 'no'} inner step" + "s" * (num_steps != 1)


def describe(metric: str, test: Test, both_modes: bool = False) -> str:
    """A test in words.

    >>> test = {"accuracy": 0.9853, "ci95": 0.0021, "num_tasks": 1000, "num_steps": 1}
    >>> describe("accuracy", test | {"predicts": "meta-learner", "transductive": True})
    '98.53% ± 0.21% (1000 tasks, 1 inner step, meta-learner)'

    Args:
      metric: Name of the metric.
      test: One of `Results.test_all`.
      both_modes: Whether to say if all queries were predicted at once, where both were tried.
    """
    value, half = test[metric], test["ci95"]
    if value is None or half is None:  # NaN, read from results.json
        number = f"{metric} not finite"
    elif is_share(metric):
        number = f"{value:.2%} ± {half:.2%}"
    else:
        number = f"{metric} {value:.4f} ± {half:.4f}"
    mode = ", all queries at once" if test["transductive"] else ", each query alone"
    steps = steps_in_words(test["num_steps"])
    tasks = f"{test['num_tasks']} tasks"
    if "num_seeds" in test:
        tasks = f"{test['num_seeds']} seeds of {tasks}"
    run = f"{test['run']}: " if "run" in test else ""
    return f"{run}{number} ({tasks}, {steps}, {test['predicts']}{mode * both_modes})"
