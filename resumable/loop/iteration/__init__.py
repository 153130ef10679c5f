"""The iterator that a `for` gets, and how it finds out that its loop was left."""
