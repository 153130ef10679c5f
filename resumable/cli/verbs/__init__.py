"""The verbs of the command line: each module holds the function of its own name."""
