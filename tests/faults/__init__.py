"""The fault laboratory: writers, the faults that are done to them, and what is left to load."""
