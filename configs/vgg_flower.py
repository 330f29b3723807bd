"""Few-shot classification of flowers: VGG-Flower, 32 x 32.

    python -m experiments.main --config=configs/vgg_flower.py[:5way-1shot][,recipe=finn]

The recipe is "cml" (MAML + CML, 30,000 steps; MAML alone by --config.co_learner=none), "finn"
(MAML's own), "reptile" or "agreement".

The published numbers after 30,000 steps are 64.31 (1-shot) and 77.03 (5-shot), MAML alone 63.17 and
74.48. No run has been made here: the images could not be had.
"""

from experiments import image_config


def get_config(text=None):
    return image_config("vgg_flower", text)
