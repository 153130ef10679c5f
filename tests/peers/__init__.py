"""Kills the trainings of each framework, and compares what its own resume and this package give."""
