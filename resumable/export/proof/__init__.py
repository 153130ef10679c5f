"""The proof beside an exported model: its schema, the digests of files and weights, the comparison of outputs."""
