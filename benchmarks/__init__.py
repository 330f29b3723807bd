"""Benchmarks of speed and memory, beside torch.func on the same machine in the same run."""
