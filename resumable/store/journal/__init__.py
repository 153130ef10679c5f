"""The journal of a run: what each attempt logged, line by line. Independent of checkpoints; decides nothing."""
