"""CML on the papers' sets of images: with a budget that two cores have, and in full for a GPU."""

from experiments.studies.study import SAME_RATES, Study, file_name

# To predict each query alone, with the support, costs 4 and 12 times as much as all at once.
_TEST = ("eval.num_tasks=2000", "eval.each_alone=False")
# Shorter than the papers' 30,000 steps, and so with a rate that decays to 0.
_SHORT = ("outer_schedule=cosine", "eval.every=250", "eval.validation_tasks=200", *_TEST)


_ROWS = {"MAML": ("co_learner=none",), "MAML + CML": ("co_learner=conv",)}
# What a critic asks for beside them. A network that was trained on all training classes at once can
# give its body to the others, which then need fewer steps.
_PROBING = "linear probing"
_PROBING_STEPS = "train_steps=1500"  # of 5,000 the best was step 750
_AGREEMENT = "weighting=gradient_agreement"
_OTHERS = {
    "MAML + agreement": ("co_learner=none", _AGREEMENT),
    "ProtoNet": ("method=proto_net", "co_learner=none"),
}
_NOISE = {"MAML + random noise": ("co_learner=conv", "co_learner_frozen=True")}
_PROBED = {
    "MAML, from probing": ("co_learner=none",),
    "MAML + CML, from probing": ("co_learner=conv",),
}
# Those two keep MAML's rates, which undo what the body has learned. These have rates of their own.
_FIVE = (
    *("num_steps=5", "eval.num_steps=5", "outer_learning_rate=1e-4"),
    *("train_steps=300", "eval.every=100"),
)
_UNICORN = "UNICORN-MAML, from probing"
_FIVE_STEPS = {
    "MAML, 5 steps, from probing": ("co_learner=none", *_FIVE),
    "MAML + CML, 5 steps, from probing": ("co_learner=conv", *_FIVE),
    "MAML + agreement, 5 steps, from probing": ("co_learner=none", *_FIVE, _AGREEMENT),
    _UNICORN: ("method=unicorn_maml", "co_learner=none", *_FIVE),
}
# The inner rate first: with one that is too large for the body no outer rate helps.
_RATES = {"inner_learning_rate": (0.005, 0.02, 0.1), "outer_learning_rate": (1e-5, 1e-4, 1e-3)}
_TUNING = ("train_steps=100", "eval.every=100", "eval.num_tasks=16")
# These two take the rates of another row.
_FARTHER = "UNICORN-MAML, 15 steps, from probing"  # as many inner steps as its paper has
# Whether it is the weight of the co-learner's loss, which starts at random, that undoes the body.
_LIGHTER = "MAML + CML, 5 steps, from probing, gamma 0.2"
_LIGHTER_AS = "MAML + CML, 5 steps, from probing"
_COLUMNS = {"1-shot": "data.shots=1", "5-shot": "data.shots=5"}


def _study(config: str, settings: tuple[str, ...], maml: tuple[str, str], cml: tuple[str, str]):
    """1- and 5-shot, MAML and MAML + CML, beside what the CML paper has (tables 1 and 2)."""
    return Study(
        config=config,
        runs={
            f"{column}: {row}": (shots, *own, *settings)
            for column, shots in _COLUMNS.items()
            for row, own in _ROWS.items()
        },
        curve="validation/accuracy",
        beside={
            f"{row}, published (30,000 steps)": dict(zip(_COLUMNS, numbers, strict=True))
            for row, numbers in zip(_ROWS, (maml, cml), strict=True)
        },
        base={"MAML + CML": "MAML"},
    )


def _with_baselines(study: Study, name: str, settings: tuple[str, ...], few: int) -> Study:
    """The study, with a random co-learner, linear probing, and what starts from its body."""
    runs, probes, tune = dict(study.runs), {}, {}
    started = {"1-shot": {_UNICORN: _FIVE_STEPS[_UNICORN]}, "5-shot": _PROBED | _FIVE_STEPS}
    for column, shots in _COLUMNS.items():
        probes[f"{column}: {_PROBING}"] = (shots, *settings, _PROBING_STEPS)
        start = f"init_from=runs/{name}/{file_name(f'{column}: {_PROBING}')}"
        for row, own in started[column].items():
            runs[f"{column}: {row}"] = (shots, *settings, f"train_steps={few}", start, *own)
            if row in _FIVE_STEPS:
                tune[f"{column}: {row}"] = _RATES
    more = {
        f"1-shot: {_FARTHER}": (f"1-shot: {_UNICORN}", ("num_steps=15", "eval.num_steps=15")),
        f"5-shot: {_LIGHTER}": (f"5-shot: {_LIGHTER_AS}", ("co_learner_scale=0.2",)),
    }
    runs |= {label: (*runs[as_], *own) for label, (as_, own) in more.items()}
    for row, own in _NOISE.items():
        runs[f"5-shot: {row}"] = (_COLUMNS["5-shot"], *own, *settings)
    rows = (*_ROWS, *_NOISE, *_PROBED, *_FIVE_STEPS, _LIGHTER, _FARTHER, _PROBING)
    plain = dict.fromkeys(rows, "MAML")
    plain |= dict.fromkeys(_PROBED, "MAML, from probing")
    plain |= dict.fromkeys((*_FIVE_STEPS, _LIGHTER, _FARTHER), "MAML, 5 steps, from probing")
    base = {row: to for row, to in plain.items() if row != to}
    tuned_as = {label: as_ for label, (as_, _) in more.items()}
    return study._replace(
        runs=runs, probes=probes, base=base, tune=tune, tuning=_TUNING, tuned_as=tuned_as
    )


_CIFAR_FS = ("configs/cifar_fs.py", ("56.55", "70.10"), ("57.67", "73.87"))
_FC100 = ("configs/fc100.py", ("36.07", "48.03"), ("36.90", "51.06"))
_MINI = (
    "configs/mini_imagenet.py",
    ("47.44 ± 0.23", "61.75 ± 0.42"),
    ("49.32 ± 0.37", "65.84 ± 0.46"),
)


def _short(of, steps: int) -> Study:
    config, *published = of
    return _study(config, (f"train_steps={steps}", *_SHORT), *published)


def _full(of) -> Study:
    config, *published = of
    return _study(config, _TEST, *published)


def _seeds(of, steps: int) -> Study:
    """What is left of the differences with three seeds and tuned rates, and so with fewer steps."""
    config, *published = of
    own = ("num_seeds=3", f"train_steps={steps}", *_SHORT, "eval.num_tasks=600")
    study = _study(config, own, *published)
    runs, tune, tuned_as = {}, {}, {}
    for row, settings in (_ROWS | _OTHERS).items():
        tried = {"outer_learning_rate": (5e-4, 1e-3, 2e-3)}
        if row != "ProtoNet":
            tried = {"inner_learning_rate": (0.1, 0.2, 0.5), **tried}
        tune[f"1-shot: {row}"] = tried
        tuned_as[f"5-shot: {row}"] = f"1-shot: {row}"
        runs |= {f"{c}: {row}": (shots, *settings, *own) for c, shots in _COLUMNS.items()}
    # MAML's tuning took another outer rate than CML's, by less than its noise: it is not the base.
    base, settings = f"MAML{SAME_RATES}", ("inner_learning_rate=0.1", "outer_learning_rate=0.001")
    for c, shots in _COLUMNS.items():
        runs[f"{c}: {base}"] = (shots, "co_learner=none", *settings, *own)
    return study._replace(
        runs=runs,
        base=dict.fromkeys((*_ROWS, *_OTHERS), base),
        tune=tune,
        tuning=("num_seeds=1", "train_steps=200", "eval.every=200", "eval.num_tasks=16"),
        tuned_as=tuned_as,
    )


def _followed(study: Study, labels: tuple[str, ...]) -> Study:
    """The study, with the analyses over training of some of its runs."""
    return study._replace(
        runs=study.runs
        | {label: (*study.runs[label], "eval.analyze_every=500") for label in labels}
    )


# Five examples of each class, as in the figures of the CML paper.
CIFAR_FS = _followed(
    _with_baselines(_short(_CIFAR_FS, 5000), "cifar_fs", ("train_steps=5000", *_SHORT), few=1000),
    labels=("5-shot: MAML + CML", "5-shot: MAML + random noise"),
)
CIFAR_FS_SEEDS = _seeds(_CIFAR_FS, 1000)
FC100, MINI_IMAGENET = _short(_FC100, 3000), _short(_MINI, 3000)
CIFAR_FS_FULL, FC100_FULL, MINI_IMAGENET_FULL = map(_full, (_CIFAR_FS, _FC100, _MINI))
