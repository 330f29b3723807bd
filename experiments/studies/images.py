"""CML on the papers' sets of images, with a budget that two cores have."""

from experiments.studies.study import Study

# Shorter than the papers' 30,000 steps, and so with a rate that decays to 0.
_SHORT = ("outer_schedule=cosine", "eval.every=250", "eval.validation_tasks=200")
_SHORT += ("eval.num_tasks=2000",)


def _runs(steps: int, shots: tuple[int, ...], extra: tuple[str, ...] = ()):
    return {
        f"{k}-shot: {row}": (f"data.shots={k}", co_learner, f"train_steps={steps}", *_SHORT, *extra)
        for k in shots
        for row, co_learner in {
            "MAML": "co_learner=none",
            "MAML + CML": "co_learner=conv",
        }.items()
    }


def _published(maml: dict[str, str], cml: dict[str, str]):
    return {"published, 30,000 steps: MAML": maml, "published, 30,000 steps: MAML + CML": cml}


_BASE = {"MAML + CML": "MAML"}

CIFAR_FS = Study(
    config="configs/cifar_fs.py",
    runs=_runs(5000, (1, 5)),
    curve="validation/accuracy",
    beside=_published(
        {"1-shot": "56.55", "5-shot": "70.10"}, {"1-shot": "57.67", "5-shot": "73.87"}
    ),
    base=_BASE,
)
FC100 = Study(
    config="configs/fc100.py",
    runs=_runs(3000, (1, 5)),
    curve="validation/accuracy",
    beside=_published(
        {"1-shot": "36.07", "5-shot": "48.03"}, {"1-shot": "36.90", "5-shot": "51.06"}
    ),
    base=_BASE,
)
MINI_IMAGENET = Study(
    config="configs/mini_imagenet.py",
    runs=_runs(3000, (1, 5)),
    curve="validation/accuracy",
    beside=_published(
        {"1-shot": "47.44 ± 0.23", "5-shot": "61.75 ± 0.42"},
        {"1-shot": "49.32 ± 0.37", "5-shot": "65.84 ± 0.46"},
    ),
    base=_BASE,
)
