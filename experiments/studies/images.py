"""CML on the papers' sets of images: with a budget that two cores have, and in full for a GPU."""

from experiments.studies.study import Study

_TEST = ("eval.num_tasks=2000",)
# Shorter than the papers' 30,000 steps, and so with a rate that decays to 0.
_SHORT = ("outer_schedule=cosine", "eval.every=250", "eval.validation_tasks=200", *_TEST)


def _study(config: str, settings: tuple[str, ...], maml: tuple[str, str], cml: tuple[str, str]):
    """1- and 5-shot, MAML and MAML + CML, beside what the CML paper has (tables 1 and 2)."""
    rows = {"MAML": "co_learner=none", "MAML + CML": "co_learner=conv"}
    columns = {"1-shot": "data.shots=1", "5-shot": "data.shots=5"}
    return Study(
        config=config,
        runs={
            f"{column}: {row}": (shots, co_learner, *settings)
            for column, shots in columns.items()
            for row, co_learner in rows.items()
        },
        curve="validation/accuracy",
        beside={
            f"{row}, published (30,000 steps)": dict(zip(columns, numbers, strict=True))
            for row, numbers in zip(rows, (maml, cml), strict=True)
        },
        base={"MAML + CML": "MAML"},
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


CIFAR_FS, FC100, MINI_IMAGENET = _short(_CIFAR_FS, 5000), _short(_FC100, 3000), _short(_MINI, 3000)
CIFAR_FS_FULL, FC100_FULL, MINI_IMAGENET_FULL = map(_full, (_CIFAR_FS, _FC100, _MINI))
