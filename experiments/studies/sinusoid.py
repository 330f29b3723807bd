"""CML and gradient agreement on sinusoids, under MAML's protocol and under Reptile."""

from experiments.studies.study import Study

_SEEDS = ("num_seeds=10",)
_AGREEMENT = "weighting=gradient_agreement"
_REPTILE = {
    "Reptile": (),
    "Reptile + agreement": (_AGREEMENT,),
    "Reptile + agreement, matched": (_AGREEMENT, "agreement_matched=True"),
    "Reptile + agreement, normalized": (_AGREEMENT, "agreement_normalized=True"),
    "Reptile + agreement, cut": (_AGREEMENT, "agreement_cut=True"),
    "Reptile + agreement, 1/2": (_AGREEMENT, "agreement_share=0.5"),
    "Reptile + agreement, 1/2, matched": (
        _AGREEMENT,
        "agreement_share=0.5",
        "agreement_matched=True",
    ),
    "Reptile + agreement, last step": (_AGREEMENT, "weigh_on=last_steps"),
    "Reptile + agreement, last step, 1/2": (
        _AGREEMENT,
        "weigh_on=last_steps",
        "agreement_share=0.5",
    ),
}

# The weighted sum is longer than the mean: what does the length alone do?
_LONGER = {
    "Reptile, rate 1.5": ("outer_learning_rate=1.5",),
    "Reptile + agreement, last step, 1/2, rate 1.5": (
        *_REPTILE["Reptile + agreement, last step, 1/2"],
        "outer_learning_rate=1.5",
    ),
}

# Whether agreement, which still moves where the mean has flattened, catches up.
_LONG = ("train_steps=100000", "eval.every=10000", "outer_learning_rate=1.0", *_SEEDS)
_LONG_REPTILE = {
    f"{row}, 100,000 steps": (*_REPTILE[row], *_LONG)
    for row in ("Reptile", "Reptile + agreement", "Reptile + agreement, 1/2")
}
# So many steps suit a smaller rate, which the tuning of short runs does not see.
_LONG_REPTILE |= {
    f"{row}, rate 0.3": (*settings, "outer_learning_rate=0.3")
    for row, settings in list(_LONG_REPTILE.items())[:2]
}

SINUSOID = Study(
    config="configs/sinusoid.py",
    runs={
        "MAML": _SEEDS,
        "MAML + CML": ("co_learner=mlp", *_SEEDS),
        "MAML + agreement": (_AGREEMENT, *_SEEDS),
    },
    base={"MAML + CML": "MAML", "MAML + agreement": "MAML"},
    by_steps=True,
)
SINUSOID_AGREEMENT = Study(
    config="configs/sinusoid.py:agreement",
    runs={row: (*settings, *_SEEDS) for row, settings in (_REPTILE | _LONGER).items()}
    | _LONG_REPTILE,
    base={row: "Reptile" for row in (_REPTILE | _LONGER) if row != "Reptile"}
    | {row: "Reptile, 100,000 steps" for row in list(_LONG_REPTILE)[1:]},
    by_steps=True,
    tune={row: {"outer_learning_rate": (0.3, 1.0, 1.5, 2.0)} for row in _REPTILE},
    # As long as the runs: after half of the steps a rate of 2 still looks as good as 1.5.
    tuning=("num_seeds=2", "eval.num_tasks=100"),
)
