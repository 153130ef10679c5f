"""Load stored weights into a live model: match keys, report what is missing, copy in place."""
