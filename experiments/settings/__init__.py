"""Settings: what there is to set, the command line, and the record of a run."""
