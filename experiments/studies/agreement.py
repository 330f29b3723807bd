"""What gradient agreement needs on sinusoids: its weights changed in one way at a time."""

from experiments.studies.study import Study

_SHORT = ("num_seeds=10", "train_steps=20000", "eval.every=2000", "eval.validation_tasks=500")
_SHORT += ("eval.num_tasks=1000",)
_AGREEMENT = "weighting=gradient_agreement"
_MANY = ("tasks_per_step=100", "train_steps=10000", "num_seeds=4")  # as many as an hour holds
_WEIGHTS = {
    "mean": (),
    "agreement": (_AGREEMENT,),
    "agreement, normalized": (_AGREEMENT, "agreement_normalized=True"),
    "agreement, cut": (_AGREEMENT, "agreement_cut=True"),
    "agreement, matched": (_AGREEMENT, "agreement_matched=True"),
    "agreement, 3/4": (_AGREEMENT, "agreement_share=0.75"),
    "agreement, 1/2": (_AGREEMENT, "agreement_share=0.5"),
    "agreement, 1/4": (_AGREEMENT, "agreement_share=0.25"),
    "agreement, 1/2, normalized": (_AGREEMENT, "agreement_share=0.5", "agreement_normalized=True"),
    "agreement, 1/2, matched": (_AGREEMENT, "agreement_share=0.5", "agreement_matched=True"),
    "agreement of gradients": (_AGREEMENT, "weigh_on=gradients"),
    "mean, 5 tasks": ("tasks_per_step=5",),
    "agreement, 5 tasks": (_AGREEMENT, "tasks_per_step=5"),
    "agreement, 1/2, 5 tasks": (_AGREEMENT, "agreement_share=0.5", "tasks_per_step=5"),
    "mean, 100 tasks": _MANY,
    "agreement, 100 tasks": (_AGREEMENT, *_MANY),
    "agreement, 1/2, 100 tasks": (_AGREEMENT, "agreement_share=0.5", *_MANY),
}


def _base(row: str) -> str:
    tasks = next((f", {n} tasks" for n in (5, 100) if row.endswith(f" {n} tasks")), "")
    return f"mean{tasks}"


AGREEMENT = Study(
    config="configs/sinusoid.py",
    runs={
        # As the first measurements had it: more points in training than at test.
        row: ("data.train_shots=10", "data.queries=10", *_SHORT, *settings)
        for row, settings in _WEIGHTS.items()
    },
    base={row: _base(row) for row in _WEIGHTS if row != _base(row)},
    by_steps=True,
)
