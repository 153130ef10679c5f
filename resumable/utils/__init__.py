"""Small tools that every package may import: events, threads, messages, strict JSON, failpoints."""
