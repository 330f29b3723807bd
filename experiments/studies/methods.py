"""Every method, alone and under CML, briefly on Omniglot."""

from experiments.studies.omniglot import REPTILE
from experiments.studies.study import Study

_SHORT = ("train_steps=500", "eval.every=100", "eval.validation_tasks=200", "eval.num_tasks=600")
_SHORT += ("eval.num_steps=0",)
# What each needs beside configs/omniglot.py; the inner rate of all but Reptile is MAML's.
_EACH = {
    "MAML": (),
    "FOMAML": ("method=fomaml",),
    "ANIL": ("method=anil",),
    "BOIL": ("method=boil",),
    "Reptile": REPTILE,
    "Meta-SGD": ("method=meta_sgd",),
    "MAML++": ("method=maml_plus_plus", "num_steps=3"),
    "Sharp-MAML": ("method=sharp_maml",),
}
_CML = ("co_learner=conv", "eval.best_of=both")


def _runs() -> dict[str, tuple[str, ...]]:
    runs = {}
    for name, settings in _EACH.items():
        runs[name] = (*_SHORT, *settings)
        runs[f"{name} + CML"] = (*_SHORT, *settings, *_CML)
    runs["CL"] = (*_SHORT, "method=collaborative", "co_learner=conv")
    runs["MAML + random noise"] = (*_SHORT, "co_learner=conv", "co_learner_frozen=True")
    runs["More-MAML"] = (*_SHORT, "model.extra_blocks=3")
    return runs


METHODS = Study(config="configs/omniglot.py", runs=_runs())
