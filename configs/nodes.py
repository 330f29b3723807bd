"""Few-shot node classification: classes of a graph that were never seen, from a few labelled nodes.

    python -m experiments.main --config=configs/nodes.py[:2way-1shot]
    python -m experiments.main --config=configs/nodes.py:2way-5shot --config.data.name=citeseer
    python -m experiments.main --config=configs/nodes.py:5way-1shot --config.data.name=cora_full

The first needs no files: its graph is a stochastic block model. The others look for files in
--config.data.dir and $CML_JAX_DATA; any npz is --config.data.name=graph
--config.data.file=PATH.npz --config.data.classes=TRAIN,VALIDATION,TEST (how many of each). With CML
add --config.co_learner=mlp.

The protocol is that of CML's results on nodes: a GCN of 16 units, 20 inner steps in first order,
one task a meta-step, 5 queries a class in training and 10 at test; training ends when 10
validations in a row are no better. (Validation has 10 queries a class here, in TLP-FSNC 5.) Which
classes are for training is drawn by --config.data.split_seed. The inner rate is 0.1; G-Meta's is
0.05, and on Amazon-Computer every network's: at 0.1 its inner loop does not converge.
"""

from experiments import default_config, parse_ways_shots


def get_config(ways_shots=None):
    config = default_config()
    config.data.name = "block_graph"
    config.data.ways, config.data.shots = parse_ways_shots(ways_shots, (2, 1))
    config.data.queries = 5
    config.model.name = "gcn"
    config.model.hidden = (16,)
    config.method = "fomaml"
    config.co_learner_scale = 0.2
    config.inner_learning_rate = 0.1
    config.num_steps = 20
    config.outer_learning_rate = 1e-3
    config.weight_decay = 5e-4
    config.tasks_per_step = 1
    config.train_steps = 1000
    config.eval.every = 10
    config.eval.patience = 10
    config.eval.queries = 10
    config.eval.validation_tasks = 20
    config.eval.num_tasks = 100
    config.eval.num_steps = (0,)
    return config
