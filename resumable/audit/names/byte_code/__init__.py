"""Which names cross the boundaries of a loop, found in byte code alone. Executes nothing of the user's."""
