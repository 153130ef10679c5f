"""Facts about tensors without their bytes: dtypes, storages, and the layout of a safetensors file."""
