"""What the co-learner needs on sinusoids: its kind, its weight, how many, and what they read."""

from experiments.studies.study import Study

_SHORT = ("num_seeds=10", "train_steps=20000", "eval.every=2000", "eval.validation_tasks=500")
_SHORT += ("eval.num_tasks=1000",)
_KINDS = {
    "MAML": (),
    **{
        f"MAML + CML, {kind}, gamma {gamma}": (f"co_learner={kind}", f"co_learner_scale={gamma}")
        for kind in ("mlp", "linear")
        for gamma in (0.2, 0.5, 1.0)
    },
    **{
        f"MAML + CML, mlp, gamma {gamma}, {what}": (
            *("co_learner=mlp", f"co_learner_scale={gamma}"),
            setting,
        )
        for what, setting in (
            ("4 at once", "co_learner_number=4"),
            ("support too", "co_learner_support=True"),
        )
        for gamma in (0.2, 1.0)
    },
    "MAML + random noise, gamma 0.2": (
        "co_learner=mlp",
        "co_learner_scale=0.2",
        "co_learner_frozen=True",
    ),
}

CO_LEARNER = Study(
    config="configs/sinusoid.py",
    runs={row: (*_SHORT, *settings) for row, settings in _KINDS.items()},
    base={row: "MAML" for row in _KINDS if row != "MAML"},
    by_steps=True,
)
