"""Trainings with `transformers.Trainer`, as programs that are killed and run again."""
