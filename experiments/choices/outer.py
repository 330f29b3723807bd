"""The outer loop's choices by name: losses, metrics, task weights, optimisers, schedules."""

from typing import NamedTuple

from experiments.choices.key import Key


class Loss(NamedTuple):
    """A loss, `(outputs, targets) -> scalar`, as "module:function"; and the targets it is for."""

    function: str
    targets: str  # "classes" or "values"


class Metric(NamedTuple):
    """What validation and test report.

    Attributes:
      function: "module:function", `(outputs, targets) -> scalar`.
      targets: "classes" or "values".
      larger_is_better: Whether a larger value is the better one.
    """

    function: str
    targets: str
    larger_is_better: bool


class Weighting(NamedTuple):
    """How tasks are weighted in the outer loop.

    Attributes:
      function: "module:function", from displacements `[T, ...]` to weights `[T]`.
      keys: The settings that it reads. `weigh_on` is for `meta_step`, the others for the function,
        `agreement_share` as `share`.
      compares: Whether it needs more than one task.
    """

    function: str
    keys: dict[str, Key] = {}
    compares: bool = False


class OuterOptimizer(NamedTuple):
    """An optax optimiser, as "module:function"; `decays`: it has a weight decay of its own."""

    function: str
    decays: bool = False


LOSSES = {
    "cross_entropy": Loss("cml_jax:cross_entropy", "classes"),
    "squared_error": Loss("cml_jax:squared_error", "values"),
}
METRICS = {
    "accuracy": Metric("cml_jax:accuracy", "classes", larger_is_better=True),
    "mse": Metric("cml_jax:squared_error", "values", larger_is_better=False),
}
WEIGHTINGS = {
    "uniform": Weighting("cml_jax:uniform"),
    "gradient_agreement": Weighting(
        "cml_jax:gradient_agreement",
        {
            "weigh_on": Key(
                "displacements",
                ("displacements", "last_steps", "gradients"),
                "what agreement compares: last_steps, the last inner step's displacement",
            ),
            "agreement_share": Key(1.0, (0.0, 1.0), "lambda, blend with the mean: 0 is the mean"),
            "agreement_normalized": Key(False, None, "compare updates of length one"),
            "agreement_cut": Key(False, None, "no negative weights"),
            "agreement_matched": Key(False, None, "a step as long as that of the mean"),
        },
        compares=True,
    ),
}
OUTER_OPTIMIZERS = {
    "adam": OuterOptimizer("optax:adam"),
    "nadam": OuterOptimizer("optax:nadam"),
    "radam": OuterOptimizer("optax:radam"),
    "rmsprop": OuterOptimizer("optax:rmsprop"),
    "sgd": OuterOptimizer("optax:sgd"),
    "adamw": OuterOptimizer("optax:adamw", decays=True),
    "lamb": OuterOptimizer("optax:lamb", decays=True),
    "lion": OuterOptimizer("optax:lion", decays=True),
}
# From the rate and the number of steps to an optax schedule.
SCHEDULES = {
    "constant": "experiments.build.optimizers:constant",
    "linear": "experiments.build.optimizers:linear",
    "cosine": "experiments.build.optimizers:cosine",
}
