"""The configuration of a run: its keys, where they come from, and the errors that explain a wrong one."""
