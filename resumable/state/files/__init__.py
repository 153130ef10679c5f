"""Read tensors from safetensors files, into live memory where that is safe."""
