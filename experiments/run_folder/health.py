"""Nothing goes wrong in silence: steps that are not finite, and runs that learn nothing."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cml_jax.types import MetaState, Metrics, Params
from experiments.build.replicas import names, runs
from experiments.run_folder.folder import Row

LOST_STEPS = 100  # skipped without a good one between: `non_finite=skip` gives up


class DispatchReport(NamedTuple):
    """What the steps of a dispatch reported.

    Attributes:
      sums: of the metrics over the steps that were kept.
      skipped: int32, how many were not.
      first: int32, the first of those; 1 is the first step of training, 0 says that all were kept.
      report: the metrics of that step.
      params_finite: whether the parameters behind the dispatch are.
    """

    sums: Metrics
    skipped: jax.Array
    first: jax.Array
    report: Metrics
    params_finite: jax.Array


def nothing_seen(report: Metrics) -> DispatchReport:
    """What a dispatch starts from.

    Args:
      report: the metrics of a step, or their shapes.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), report)
    return DispatchReport(zeros, jnp.int32(0), jnp.int32(0), zeros, jnp.array(True))


def keep_finite(
    before: MetaState, after: MetaState, report: Metrics, seen: DispatchReport
) -> tuple[MetaState, DispatchReport]:
    """The state after a step if all that it reports is finite, else the state before it.

    The report has the loss and the norm of the gradient; `step` counts on either way. The new
    parameters are looked at once a dispatch, by `look_at_params`: in every step it would show.

    Args:
      before, after: the states around the step.
      report: its metrics, scalars.
      seen: of the steps before it in this dispatch.
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
    """`seen` with `params_finite`: an update may overflow though its gradient is finite."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return seen._replace(params_finite=jnp.stack(leaves).all())


def means(seen: DispatchReport, steps: int) -> dict[str, np.ndarray]:
    """The metrics of a dispatch of so many steps: means over those kept, NaN where none was."""
    kept = steps - seen.skipped
    return {k: np.where(kept > 0, v / np.maximum(kept, 1), np.nan) for k, v in seen.sums.items()}


def must_stop(config, seen: DispatchReport, step: int, lost: int) -> str:
    """What was not finite, in which step, on which tasks, and the remedy; "" to go on.

    Of several runs, one that diverges does not end the others: its steps are skipped.

    Args:
      config: the run's.
      seen: of a dispatch, numpy.
      step: meta-steps made.
      lost: of those, skipped in a row (by all runs).
    """
    stopped = config.non_finite == "stop" and (seen.skipped > 0).all()
    if seen.params_finite.any() and not stopped and lost < LOST_STEPS:
        return ""
    if seen.first.ndim:  # of several runs, the first speaks for all
        seen = jax.tree.map(lambda leaf: leaf[0], seen)
    settings = dict(config.items()) | runs(config)[0]
    seed, tasks = settings["seed"], config.tasks_per_step
    remedy = (
        f"lower --config.inner_learning_rate={settings['inner_learning_rate']} or "
        f"--config.outer_learning_rate={settings['outer_learning_rate']} in a new run"
    )
    bad = [f"train/{k} is {v}" for k, v in seen.report.items() if not np.isfinite(v)]
    if not bad:
        return f"a parameter is not finite behind step {step}: {remedy}"
    line = (
        f"{bad[0]} in step {seen.first}, on tasks {(seen.first - 1) * tasks}-"
        f"{seen.first * tasks - 1} of seed {seed}: {remedy}"
    )
    if config.non_finite == "skip":
        return f"{lost} steps in a row were skipped; {line}"
    return f"{line}, or go on without such steps, --config.non_finite=skip"


class HealthCheck:
    """Signs that a run learns nothing, each once, from its reports alone, in bounded memory.

    Reports are averaged over stretches of a tenth of training (100 steps at least). Warned of is

    - accuracy: a stretch at chance, 1 / ways, or above it by less than 2% of what is left to one;
    - loss: the second stretch is not 5% lower than the first tenth of the first;
    - agreement: a stretch whose largest and smallest weights differ by less than 0.1% of 1 / T, or
      whose largest is above 0.99;
    - gradient: a stretch with a norm below 1e-7, what float32 leaves of a one;
    - steps that were skipped.

    Of several runs each is looked at by itself where its own numbers are reported.
    """

    def __init__(self, config, rows: Iterable[Row] = ()):
        """Begins to watch.

        Args:
          config: the run's.
          rows: its reports so far.
        """
        self._config = config
        length = max(100, config.train_steps // 10)
        self._stretches, self._first = _Stretches(length), _Stretches(length // 10)
        self._step = 0
        self._skipped: dict[str, str] = {}  # run to the steps of the first report that has one
        for row in rows:
            self.see(row)

    def see(self, row: Row) -> None:
        """Takes the next report."""
        self._stretches.add(row)
        self._first.add(row)
        for run in names(self._config) or [""]:
            if row.get(f"skipped/{run}".rstrip("/")):
                self._skipped.setdefault(run, f"steps {self._step + 1}-{row['step']}")
        self._step = row["step"]

    def warnings(self) -> list[str]:
        """One line each. More reports never take one back."""
        stretches = self._stretches.done
        start = next(iter(self._first.done), {})
        config = self._config
        tasks, chance, found = config.tasks_per_step, 1 / config.data.ways, {}
        for run in names(config) or [""]:
            loss, accuracy = (f"{name}/{run}".rstrip("/") for name in ("loss", "accuracy"))
            label = f"run {run}: " if run else ""
            if len(stretches) > 1 and loss in stretches[1] and loss in start:
                if stretches[1][loss] > 0.95 * start[loss]:
                    found[loss] = (
                        f"{label}the loss does not fall: {start[loss]:.3g} at the start, "
                        f"{stretches[1][loss]:.3g} in {stretches[1]['steps']}; change "
                        "--config.outer_learning_rate"
                    )
            for stretch in stretches:
                if stretch.get(accuracy, 1.0) < chance + 0.02 * (1 - chance):
                    found.setdefault(
                        accuracy,
                        f"{label}accuracy is at chance, {stretch[accuracy]:.1%} of "
                        f"{config.data.ways} classes, in {stretch['steps']}; change "
                        "--config.inner_learning_rate or --config.outer_learning_rate",
                    )
        for stretch in stretches:
            steps = stretch["steps"]
            if stretch.get("gradient_norm", 1.0) < 1e-7:
                found.setdefault(
                    "gradient",
                    f"the gradient vanishes, {stretch['gradient_norm']:.1e} in {steps}; raise "
                    "--config.inner_learning_rate, or start from another --config.seed",
                )
            if config.weighting == "gradient_agreement" and "weight_max" in stretch:
                high, low = stretch["weight_max"], stretch["weight_min"]
                if high > 0.99:
                    found.setdefault(
                        "agreement",
                        f"one task takes all of the agreement weights in {steps}; raise "
                        "--config.tasks_per_step, or --config.weighting=uniform",
                    )
                elif high - low < 1e-3 / tasks:
                    found.setdefault(
                        "agreement",
                        f"the agreement weights are all equal in {steps}: no task's update "
                        "differs; raise --config.inner_learning_rate, or "
                        "--config.weighting=uniform",
                    )
        for run, steps in self._skipped.items():
            found[f"skipped/{run}"] = (
                f"{f'run {run}: ' if run else ''}steps were skipped because they were not finite, "
                f"the first in {steps}"
            )
        return list(found.values())


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
