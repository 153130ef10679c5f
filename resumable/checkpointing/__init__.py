"""Save and restore: open a run, take a snapshot, commit it, prune old checkpoints, restore one."""
