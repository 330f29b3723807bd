"""Methods and inner optimisers by name. A new method is a file in `cml_jax.methods` and a row."""

from typing import NamedTuple

from experiments.choices.key import Key
from experiments.choices.networks import CO_LEARNERS


class MethodRow(NamedTuple):
    """What the program knows of a method.

    Attributes:
      function: "module:function" that makes the `Method`. It gets the arguments that it has
        parameters for: `model`, `loss`, `num_steps`, `remat`, `learning_rate` or `optimizer`,
        `first_order` where it is asked for, its own settings by name, and `co_learner`,
        `progress` (the share of training that is done; None at test), `examples` (of a support
        set), `ways` and `embedding` (as in `Problem`). One with a `**` parameter gets
        `num_steps`, `remat`, the rate or the optimiser, and `first_order` as well.
      keys: The settings that it reads.
      dagger: Whether CML-dagger as the paper writes it is defined for it.
      first_order: Whether it is always first-order.
      static_steps: Whether its inner loop has to be compiled anew for each number of steps.
      targets: "classes" where it is for those alone; "" is any.
      needs_co_learner: Whether the co-learner is a part of the method itself, and CML is not put
        around it.
      all_classes: Whether it trains on all training classes of a set of images at once, as ordinary
        classification, and not on tasks. Then it has no co-learner.
      predicts: Who predicts, in the results.
      meta_step: "module:function" from the settings to further arguments of `meta_step`.
    """

    function: str
    keys: dict[str, Key]
    dagger: bool = False
    first_order: bool = False
    static_steps: bool = False
    targets: str = ""
    needs_co_learner: bool = False
    all_classes: bool = False
    predicts: str = "meta-learner"
    meta_step: str = ""

    @property
    def has_inner_steps(self) -> bool:
        """Whether it adapts in steps, whose number it reads."""
        return "num_steps" in self.keys


class InnerOptimizer(NamedTuple):
    """An optimiser of the inner loop.

    Attributes:
      function: "module:function" from the learning rate to an optax transformation.
      keys: The settings that it reads.
    """

    function: str
    keys: dict[str, Key] = {}


_BODY_RATE = {
    "body_rate": Key(1.0, (0.0, 1e3), "the body's inner rate, in units of inner_learning_rate")
}
INNER_OPTIMIZERS = {
    "sgd": InnerOptimizer("optax:sgd", _BODY_RATE),
    "momentum": InnerOptimizer("experiments.build.optimizers:momentum"),
    "rmsprop": InnerOptimizer("optax:rmsprop"),
    "adam": InnerOptimizer("experiments.build.optimizers:inner_adam"),
}

_INNER = {
    "inner_learning_rate": Key(0.4, (0.0, 100.0), "step size of the inner loop"),
    "num_steps": Key(1, (1, 10_000), "inner steps in training"),
    "eval.num_steps": Key((1, 3), (0, 10_000), "inner steps at test, each scored; 0: as trained"),
}
_ORDER = {"first_order": Key(False, None, "drop the second derivatives")}
_OPTIMIZER = {
    "inner_optimizer": Key(
        "sgd",
        tuple(INNER_OPTIMIZERS),
        "of the inner loop; Reptile's keeps its state from task to task, its adam has beta1 = 0",
    )
}
# What a co-learner reads under every method but the one whose part it is.
_CML = {name: key for row in CO_LEARNERS.values() for name, key in row.keys.items()}
_CML = {name: key for name, key in _CML.items() if name != "co_learner_depth"}
_MAML = _INNER | _BODY_RATE | _ORDER | _OPTIMIZER | _CML

METHODS = {
    "maml": MethodRow("cml_jax:maml", _MAML, dagger=True),
    "fomaml": MethodRow(
        "cml_jax:fomaml", _INNER | _BODY_RATE | _OPTIMIZER | _CML, dagger=True, first_order=True
    ),
    "anil": MethodRow("cml_jax:anil", _INNER | _ORDER | _OPTIMIZER | _CML, dagger=True),
    "boil": MethodRow("cml_jax:boil", _MAML, dagger=True),
    "reptile": MethodRow(
        "experiments.build.methods:reptile",
        _INNER
        | _OPTIMIZER
        | _CML
        | {"minibatch": Key(0, (0, 1_000_000), "examples of Reptile's inner steps; 0: all")},
        static_steps=True,
    ),
    "meta_sgd": MethodRow("cml_jax:meta_sgd", _INNER | _BODY_RATE | _ORDER | _CML),
    "maml_plus_plus": MethodRow(
        "experiments.build.methods:maml_plus_plus",
        _INNER
        | _ORDER
        | _CML
        | {
            "multi_step_until": Key(
                0.15, (0.0, 1.0), "share of training with a loss after every inner step"
            ),
            "second_order_after": Key(0.0, (0.0, 1.0), "share of training in first order"),
        },
        static_steps=True,
    ),
    "sharp_maml": MethodRow(
        "experiments.build.methods:sharp_maml",
        _INNER
        | _BODY_RATE
        | _ORDER
        | _CML
        | {
            "radius": Key(5e-4, (0.0, 10.0), "rho, the reach of the perturbation"),
            "sharp": Key("both", ("lower", "upper", "both"), "the loop that is perturbed"),
        },
        dagger=True,
        meta_step="experiments.build.methods:sharp_outer_loop",
    ),
    "unicorn_maml": MethodRow("cml_jax:unicorn_maml", _MAML),
    "proto_net": MethodRow("cml_jax:proto_net", _CML, targets="classes"),
    "linear_probing": MethodRow(
        "experiments.build.methods:linear_probing",
        {
            "penalty": Key(
                1.0, (1e-3, 1e3), "on the squared weights of the logistic regression, 1 / C"
            )
        },
        targets="classes",
        all_classes=True,
        predicts="logistic regression",
    ),
    "collaborative": MethodRow(
        "cml_jax:collaborative",
        _INNER | _BODY_RATE | _ORDER | _OPTIMIZER,
        needs_co_learner=True,
    ),
}
