"""CML and gradient agreement on Omniglot: MAML 5-way and 20-way, and in short for five methods."""

import itertools

from experiments.studies.study import Study

_AGREEMENT = "weighting=gradient_agreement"
_CML = ("co_learner=conv", "eval.best_of=both")
_SHORT = ("num_seeds=3", "tasks_per_step=16", "train_steps=600", "eval.every=100")
_SHORT += ("eval.validation_tasks=200", "eval.num_tasks=600", "eval.num_steps=0")
REPTILE = ("method=reptile", "data.train_shots=10", "data.queries=1", "inner_optimizer=adam")
REPTILE += ("minibatch=10", "inner_learning_rate=3e-3", "num_steps=5", "outer_optimizer=sgd")
REPTILE += ("outer_learning_rate=1.0", "outer_schedule=linear", "eval.num_steps=50")
# With 5 shots an episode is larger, and learned in fewer steps.
_SHOTS = {1: (), 5: ("train_steps=300", "eval.each_alone=False")}
_METHODS = {
    "MAML": (),
    "FOMAML": ("method=fomaml",),
    "ANIL": ("method=anil",),
    "BOIL": ("method=boil",),
    "Reptile": REPTILE,
}
_VARIANTS = {
    "": (),
    " + CML": _CML,
    " + agreement": (_AGREEMENT,),
    " + CML + agreement": (*_CML, _AGREEMENT),
}
_RATES = {"outer_learning_rate": (3e-4, 1e-3, 3e-3), "inner_learning_rate": (0.1, 0.2, 0.4)}
_REPTILE_RATES = {"outer_learning_rate": (0.3, 1.0), "inner_learning_rate": (1e-3, 3e-3)}


def _methods() -> Study:
    runs, tune, tuned_as, base = {}, {}, {}, {}
    for (method, own), (variant, more) in itertools.product(_METHODS.items(), _VARIANTS.items()):
        row = method + variant
        for shots, fewer in _SHOTS.items():
            runs[f"{shots}-shot: {row}"] = (f"data.shots={shots}", *_SHORT, *own, *more, *fewer)
        tune[f"1-shot: {row}"] = _REPTILE_RATES if method == "Reptile" else _RATES
        tuned_as[f"5-shot: {row}"] = f"1-shot: {row}"
        if variant:
            base[row] = method
    tuning = ("num_seeds=1", "train_steps=200", "eval.every=200", "eval.num_tasks=16")
    return Study(
        "configs/omniglot.py", runs, base=base, tune=tune, tuning=tuning, tuned_as=tuned_as
    )


OMNIGLOT = Study(
    config="configs/omniglot.py",
    runs={
        "MAML": (),
        "MAML + CML": ("co_learner=conv",),
        "MAML + agreement": (_AGREEMENT,),
    },
    curve="validation/accuracy",
)
OMNIGLOT_METHODS = _methods()
_ROWS_20WAY = {"MAML": (), "MAML + CML": _CML, "MAML + agreement": (_AGREEMENT,)}
_LONG = ("tasks_per_step=16", "num_steps=5", "train_steps=3000", "eval.num_steps=0")
OMNIGLOT_20WAY = Study(
    config="configs/omniglot.py:20way-1shot",
    runs={f"1-shot: {row}": (*_LONG, *own) for row, own in _ROWS_20WAY.items()},
    curve="validation/accuracy",
    base={"MAML + CML": "MAML", "MAML + agreement": "MAML"},
    beside={
        "published: MAML (60,000 steps)": {"1-shot": "95.8 ± 0.3"},
        "published: MAML + agreement": {"1-shot": "94.25 ± 0.51"},
    },
    tune={f"1-shot: {row}": {"inner_learning_rate": (0.1, 0.4, 1.0)} for row in _ROWS_20WAY},
    tuning=("train_steps=100", "eval.every=100", "eval.num_tasks=16"),
)
