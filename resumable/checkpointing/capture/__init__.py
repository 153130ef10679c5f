"""Take all state at one boundary: objects, gradients, RNG streams and golden inputs."""
