"""Graphs whose nodes are classified: structures made on the host and read in compiled programs."""
