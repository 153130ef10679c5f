"""Which variables of the loop cross from one turn to the next, and whether a resume brings them back."""
