"""Trainings with Lightning, as programs that are killed and run again."""
