"""What every room may import: events, threads, strict JSON, failpoints. Independent of training."""
