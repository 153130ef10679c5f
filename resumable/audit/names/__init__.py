"""The names of a loop: which of them cross its boundaries, and their values. Independent of tensors and files."""
