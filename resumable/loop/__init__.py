"""The training loop: passes over loaders, boundaries between steps, preemption, and what one launch owns."""
