"""The proof beside an exported model: its document, the digests of files and weights, and the comparison of outputs."""
