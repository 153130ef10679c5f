"""Copy the state of a boundary to host memory before training may write to it again."""
