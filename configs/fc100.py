"""Few-shot classification of small photographs: FC100, 32 x 32.

    python -m experiments.main --config=configs/fc100.py[:5way-1shot][,recipe=finn]

The recipe is "cml" (MAML + CML, 30,000 steps; MAML alone by --config.co_learner=none), "finn"
(MAML's own), "reptile" or "agreement".

The published numbers after 30,000 steps are 36.90 (1-shot) and 51.06 (5-shot), MAML alone 36.07 and
48.03. No run of this length has been made here; python -m experiments.study fc100_full makes them.
With 3,000 steps and a rate that decays to 0 (docs/results/fc100.md) 1-shot MAML reaches 35.5 and
MAML + CML 34.9, in an hour each on one core of a CPU.
"""

from experiments import image_config


def get_config(text=None):
    return image_config("fc100", text)
