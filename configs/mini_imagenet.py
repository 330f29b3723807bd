"""Few-shot classification of photographs: miniImageNet, 84 x 84.

    python -m experiments.main --config=configs/mini_imagenet.py[:5way-1shot][,recipe=finn]

The recipe is "cml" (MAML + CML, 30,000 steps; MAML alone by --config.co_learner=none), "finn"
(MAML's own), "reptile" or "agreement".

The published numbers after 30,000 steps are 49.32 +- 0.37 (1-shot) and 65.84 +- 0.46 (5-shot),
MAML alone 47.44 and 61.75. One CPU core does 580 steps in 90 minutes, after which MAML alone is at
23.0 +- 0.2 (1-shot): docs/results/mini_imagenet.md. All 30,000 need a GPU: python -m
experiments.study mini_imagenet_full.
"""

from experiments import image_config


def get_config(text=None):
    return image_config("mini_imagenet", text)
