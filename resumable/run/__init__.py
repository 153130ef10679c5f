"""The read side: runs, checkpoints and their verification, without the user's code."""
