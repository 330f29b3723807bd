"""Few-shot classification of photographs: miniImageNet, 84 x 84.

    python -m experiments.main --config=configs/mini_imagenet.py[:5way-1shot][,recipe=finn]

The recipe is "cml" (MAML + CML, 30,000 steps; MAML alone by --config.co_learner=none), "finn"
(MAML's own), "reptile" or "agreement".
"""

from experiments import image_config


def get_config(text=None):
    return image_config("mini_imagenet", text)
