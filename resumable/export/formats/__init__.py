"""The formats that a model is exported to: one module per family of formats."""
