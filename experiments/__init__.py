"""The program around the library: configs in, checkpoints, metrics, pictures and results out."""
