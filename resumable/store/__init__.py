"""Store checkpoints as bytes under names, and find the valid ones. Imports no torch. FORMAT.md is the format."""
