"""CML and gradient agreement on Omniglot."""

from experiments.studies.study import Study

OMNIGLOT = Study(
    config="configs/omniglot.py",
    runs={
        "MAML": (),
        "MAML + CML": ("co_learner=conv",),
        "MAML + agreement": ("weighting=gradient_agreement",),
    },
    curve="validation/accuracy",
)
