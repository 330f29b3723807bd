"""Few-shot classification of small photographs: CIFAR-FS, 32 x 32.

    python -m experiments.main --config=configs/cifar_fs.py[:5way-1shot][,recipe=finn]

The recipe is "cml" (MAML + CML, 30,000 steps; MAML alone by --config.co_learner=none), "finn"
(MAML's own), "reptile" or "agreement".

The published numbers after 30,000 steps are 57.67 (1-shot) and 73.87 (5-shot), MAML alone 56.55 and
70.10. One CPU core does 5,000 steps in 75 minutes, which with --config.outer_schedule=cosine is
46.4 +- 0.5 (1-shot) and 68.0 +- 0.4 (5-shot), and with CML 48.3 +- 0.5 and 69.1 +- 0.4:
docs/results/cifar_fs.md.
"""

from experiments import image_config


def get_config(text=None):
    return image_config("cifar_fs", text)
