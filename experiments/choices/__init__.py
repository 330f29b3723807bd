"""What can be chosen by name: rows, each with all that the program must know of a choice."""
