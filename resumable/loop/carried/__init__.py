"""The variables that `trainer.carry` names: saved with every checkpoint, and put back into their frame."""
