"""Run a training again and again under kills, and compare its ends. Prints nothing."""
