"""CML and gradient agreement on sinusoids, under MAML's protocol and under Reptile."""

from experiments.studies.study import Study

_AGREEMENT = "weighting=gradient_agreement"
_SLOW = "outer_learning_rate=0.1"

SINUSOID = Study(
    config="configs/sinusoid.py",
    runs={"MAML": (), "MAML + CML": ("co_learner=mlp",), "MAML + agreement": (_AGREEMENT,)},
    curve="validation/mse",
)
SINUSOID_AGREEMENT = Study(
    config="configs/sinusoid.py:agreement",
    runs={
        "Reptile": (),
        "Reptile + agreement": (_AGREEMENT,),
        "Reptile, rate 0.1": (_SLOW,),
        "Reptile + agreement, rate 0.1": (_AGREEMENT, _SLOW),
    },
    curve="validation/mse",
)
