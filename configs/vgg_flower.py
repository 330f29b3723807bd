"""Few-shot classification of flowers: VGG-Flower, 32 x 32.

    python -m experiments.main --config=configs/vgg_flower.py[:5way-1shot][,recipe=finn]

The recipe is "cml" (MAML + CML, 30,000 steps; MAML alone by --config.co_learner=none), "finn"
(MAML's own), "reptile" or "agreement".
"""

from experiments import image_config


def get_config(text=None):
    return image_config("vgg_flower", text)
