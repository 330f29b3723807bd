"""Few-shot classification of small photographs: CIFAR-FS, 32 x 32.

    python -m experiments.main --config=configs/cifar_fs.py[:5way-1shot][,recipe=finn]

The recipe is "cml" (MAML + CML, 30,000 steps; MAML alone by --config.co_learner=none), "finn"
(MAML's own), "reptile" or "agreement".
"""

from experiments import image_config


def get_config(text=None):
    return image_config("cifar_fs", text)
