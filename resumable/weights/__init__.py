"""Load the weights of a checkpoint, an export or a foreign file into a model."""
