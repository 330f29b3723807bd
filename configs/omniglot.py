"""Few-shot classification of handwritten characters: Omniglot, 28 x 28, MAML's protocol.

    python -m experiments.main --config=configs/omniglot.py[:5way-1shot]
"""

from experiments.config import default_config, parse_ways_shots


def get_config(ways_shots=None):
    config = default_config()
    config.data.name = "omniglot"
    config.data.ways, config.data.shots = parse_ways_shots(ways_shots, (5, 1))
    config.data.queries = config.eval.queries = config.data.shots
    config.inner_learning_rate = 0.4
    config.train_steps = 2000
    return config
