"""Few-shot classification of procedural characters: nothing to download.

python -m experiments.main --config=configs/glyphs.py[:5way-1shot]
"""

from experiments import default_config, parse_ways_shots


def get_config(ways_shots=None):
    config = default_config()
    config.data.name = "glyphs"
    config.data.ways, config.data.shots = parse_ways_shots(ways_shots, (5, 1))
    config.data.queries = 5
    config.eval.queries = config.data.shots
    config.model.pool = False
    config.inner_learning_rate = 0.4
    config.outer_learning_rate = 3e-3
    config.outer_schedule = "cosine"
    config.tasks_per_step = 16
    config.train_steps = 300
    config.eval.every = 100
    config.eval.num_tasks = 600
    return config
