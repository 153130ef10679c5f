"""Look at the loop of the user for state that is in no checkpoint, and say what is seen. Independent of storage."""
