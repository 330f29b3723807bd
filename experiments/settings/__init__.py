"""What can be set, how the command line says it, and what a run was started with."""
