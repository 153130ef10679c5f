"""Make a checkpoint from another one: under a new attempt of its run, or as the first of a run of its own."""
