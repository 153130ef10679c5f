"""What a launch shares with its process: signals, the terminal, and the other launches of the program."""
