"""Nothing goes wrong in silence: steps that are not finite, and runs that learn nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.types import MetaState, Metrics, Params
from experiments.run_folder.folder import Row
from experiments.run_folder.results import is_share

LOST_STEPS = 100  # skipped in a row, until a run that skips such steps gives up


class DispatchReport(NamedTuple):
    """What the steps of a dispatch reported.

    Attributes:
      sums: Sums of the metrics over the steps that were kept.
      skipped: int32, how many steps were not kept.
      first: int32, the first of those; 1 is the first step of training, 0 says that all were kept.
      report: The metrics of that step.
      params_finite: Whether the parameters after the dispatch are finite.
    """

    sums: Metrics
    skipped: jax.Array
    first: jax.Array
    report: Metrics
    params_finite: jax.Array


def nothing_seen(report: Metrics) -> DispatchReport:
    """The report that a dispatch starts from.

    Args:
      report: The metrics of a step, or their shapes.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), report)
    return DispatchReport(zeros, jnp.int32(0), jnp.int32(0), zeros, jnp.array(True))


def keep_finite(
    before: MetaState, after: MetaState, report: Metrics, seen: DispatchReport
) -> tuple[MetaState, DispatchReport]:
    """The state after a step if all that the step reports is finite, else the state before it.

    The report includes the loss and the norm of the gradient; the step counter advances either
    way. The new parameters are checked once a dispatch, by `look_at_params`: a check in every step
    would cost measurable time.

    Args:
      before: The state before the step.
      after: The state after it.
      report: The metrics of the step, scalars.
      seen: The report of the earlier steps of this dispatch.

    Returns:
      The state to continue from, and the report with this step in it.
    """
    finite = jnp.isfinite(jnp.stack(jax.tree.leaves(report))).all()

    def choose(yes, no):
        return jax.tree.map(lambda y, n: jnp.where(finite, y, n), yes, no)

    params, opt_state = choose(after[:2], before[:2])
    is_first = ~finite & (seen.first == 0)
    zeros = jax.tree.map(jnp.zeros_like, report)
    return MetaState(params, opt_state, after.step), DispatchReport(
        jax.tree.map(jnp.add, seen.sums, choose(report, zeros)),
        seen.skipped + (~finite).astype(jnp.int32),
        jnp.where(is_first, after.step, seen.first),
        jax.tree.map(lambda new, old: jnp.where(is_first, new, old), report, seen.report),
        seen.params_finite,
    )


def look_at_params(seen: DispatchReport, params: Params) -> DispatchReport:
    """Fills in `params_finite`: an update may overflow although its gradient is finite.

    Args:
      seen: The report of a dispatch.
      params: The parameters after it.
    """
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return seen._replace(params_finite=jnp.stack(leaves).all())


def means(seen: DispatchReport, steps: int) -> dict[str, np.ndarray]:
    """The metrics of a dispatch: means over the steps that were kept, NaN where none was.

    Args:
      seen: The report of the dispatch, as NumPy arrays.
      steps: How many steps the dispatch made.
    """
    kept = steps - seen.skipped
    return {k: np.where(kept > 0, v / np.maximum(kept, 1), np.nan) for k, v in seen.sums.items()}


def must_stop(
    seen: DispatchReport,
    step: int,
    lost: int,
    *,
    skip: bool,
    tasks_per_step: int,
    replicas: Sequence[Mapping[str, float]],
    remedy: str,
) -> str:
    """Decides whether training must end because steps were not finite.

    Of several replicas, one that diverges does not end the others: its steps are skipped.

    Args:
      seen: The report of a dispatch, as NumPy arrays.
      step: How many meta-steps have been made.
      lost: How many of them were skipped in a row (by all replicas).
      skip: Whether steps that are not finite are skipped; otherwise one ends the run.
      tasks_per_step: How many tasks a meta-batch has.
      replicas: The "seed" of each replica, and what else tells it apart.
      remedy: What to change, in words.

    Returns:
      What was not finite, in which step, on which tasks, and the remedy; "" to continue.
    """
    stopped = not skip and (seen.skipped > 0).all()
    if seen.params_finite.any() and not stopped and lost < LOST_STEPS:
        return ""
    if seen.first.ndim:  # of several replicas, the first speaks for all
        seen = jax.tree.map(lambda leaf: leaf[0], seen)
    bad = [f"train/{k} is {v}" for k, v in seen.report.items() if not np.isfinite(v)]
    if not bad:
        return f"a parameter is not finite after step {step}: {remedy}"
    first = (seen.first - 1) * tasks_per_step
    line = (
        f"{bad[0]} in step {seen.first}, on tasks {first}-{first + tasks_per_step - 1} of seed "
        f"{replicas[0]['seed']}: {remedy}"
    )
    if skip:
        return f"{lost} steps in a row were skipped; {line}"
    return f"{line}, or continue without such steps, --config.non_finite=skip"


class HealthCheck:
    """Signs that a run learns nothing, each told once, from its reports alone, in bounded memory.

    Reports are averaged over stretches of a tenth of training (at least 100 steps). Warnings are of

    - accuracy: in a stretch it is at chance, or above it by less than 2% of what is left to one;
    - loss: the second stretch is not 5% lower than the first tenth of the first;
    - agreement: in a stretch the largest and smallest weights differ by less than 0.1% of
      1 / tasks, or the largest is above 0.99;
    - gradient: in a stretch its norm is below 1e-7, what float32 leaves of a one;
    - steps that were skipped;
    - the final test, in `at_chance`.

    Of several replicas each is looked at by itself where its own numbers are reported.
    """

    def __init__(
        self,
        *,
        train_steps: int,
        tasks_per_step: int,
        chance: float | None,
        agreement: bool,
        replicas: Sequence[str] = (),
        metric: str = "accuracy",
        rows: Iterable[Row] = (),
    ):
        """Begins to watch.

        Args:
          train_steps: How many meta-steps the run has.
          tasks_per_step: How many tasks a meta-batch has.
          chance: The metric of a guess, 1 / ways; None where there is no such value.
          agreement: Whether the weights of tasks come from comparing tasks.
          replicas: The numbers of the replicas, as they follow a metric's name; none for one run.
          metric: Name of the metric that is compared with `chance`.
          rows: The reports so far.
        """
        self._tasks, self._agreement = tasks_per_step, agreement
        self._metric, self._replicas = metric, list(replicas) or [""]
        self._chance = chance if is_share(metric) else None
        length = max(100, train_steps // 10)
        self._stretches, self._first = _Stretches(length), _Stretches(length // 10)
        self._step = 0
        self._skipped: dict[str, str] = {}  # replica to the steps of its first report with one
        for row in rows:
            self.see(row)

    def see(self, row: Row) -> None:
        """Takes the next report."""
        self._stretches.add(row)
        self._first.add(row)
        for name in self._replicas:
            if row.get(f"skipped/{name}".rstrip("/")):
                self._skipped.setdefault(name, f"steps {self._step + 1}-{row['step']}")
        self._step = row["step"]

    def warnings(self) -> list[str]:
        """The warnings so far, one line each. More reports never take one back."""
        found = {}
        for name in self._replicas:
            label = f"run {name}: " if name else ""
            self._look_at_loss(found, f"loss/{name}".rstrip("/"), label)
            self._look_at_chance(found, f"{self._metric}/{name}".rstrip("/"), label)
        for stretch in self._stretches.done:
            if stretch.get("gradient_norm", 1.0) < 1e-7:
                found.setdefault(
                    "gradient",
                    f"the gradient vanishes, {stretch['gradient_norm']:.1e} in {stretch['steps']}; "
                    "raise --config.inner_learning_rate, or start from another --config.seed",
                )
            if self._agreement and "weight_max" in stretch:
                self._look_at_weights(found, stretch)
        for name, steps in self._skipped.items():
            found[f"skipped/{name}"] = (
                f"{f'run {name}: ' if name else ''}steps were skipped because they were not "
                f"finite, the first in {steps}"
            )
        return list(found.values())

    def at_chance(self, test: Mapping[str, Any]) -> list[str]:
        """Warns of a final test whose interval reaches down to chance.

        Args:
          test: One of `Results.test_all`.

        Returns:
          One line, or nothing.
        """
        value, half = test.get(self._metric), test.get("ci95")
        if self._chance is None or value is None or half is None:
            return []
        if not value - half < self._almost_chance():
            return []
        return [
            f"the test is at chance or cannot be told from it: {self._metric} {value:.1%} ± "
            f"{half:.1%}, a guess has {self._chance:.1%}; try another "
            "--config.inner_learning_rate, look at the scale of the inputs, or test on more "
            "--config.eval.num_tasks"
        ]

    def _almost_chance(self) -> float:
        return self._chance + 0.02 * (1 - self._chance)

    def _look_at_loss(self, found: dict[str, str], loss: str, label: str) -> None:
        start, stretches = next(iter(self._first.done), {}), self._stretches.done
        if len(stretches) < 2 or loss not in stretches[1] or loss not in start:
            return
        if stretches[1][loss] > 0.95 * start[loss]:
            found[loss] = (
                f"{label}the loss does not fall: {start[loss]:.3g} at the start, "
                f"{stretches[1][loss]:.3g} in {stretches[1]['steps']}; change "
                "--config.outer_learning_rate"
            )

    def _look_at_chance(self, found: dict[str, str], metric: str, label: str) -> None:
        if self._chance is None:
            return
        for stretch in self._stretches.done:
            if stretch.get(metric, 1.0) < self._almost_chance():
                found.setdefault(
                    metric,
                    f"{label}{self._metric} is at chance, {stretch[metric]:.1%} of "
                    f"{round(1 / self._chance)} classes, in {stretch['steps']}; change "
                    "--config.inner_learning_rate or --config.outer_learning_rate",
                )

    def _look_at_weights(self, found: dict[str, str], stretch: Mapping[str, Any]) -> None:
        high, low, steps = stretch["weight_max"], stretch["weight_min"], stretch["steps"]
        if high > 0.99:
            found.setdefault(
                "agreement",
                f"one task takes all of the agreement weights in {steps}; raise "
                "--config.tasks_per_step, or --config.weighting=uniform",
            )
        elif high - low < 1e-3 / self._tasks:
            found.setdefault(
                "agreement",
                f"the agreement weights are all equal in {steps}: no task's update differs; raise "
                "--config.inner_learning_rate, or --config.weighting=uniform",
            )


class _Stretches:
    """Means of train/* over stretches of at least `length` steps, and "steps", which they are."""

    def __init__(self, length: int):
        self.done: list[dict[str, Any]] = []
        self._length, self._start, self._step = length, 0, 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, row: Row) -> None:
        steps, self._step = row["step"] - self._step, row["step"]
        for name, value in row.items():
            if name.startswith("train/") and value is not None:
                name = name.removeprefix("train/")
                self._sums[name] = self._sums.get(name, 0.0) + steps * value
                self._counts[name] = self._counts.get(name, 0) + steps
        if self._step - self._start >= self._length:
            means = {
                name: v / self._counts[name] for name, v in self._sums.items() if self._counts[name]
            }
            self.done.append(means | {"steps": f"steps {self._start + 1}-{self._step}"})
            self._start, self._sums, self._counts = self._step, {}, {}
