"""The order in which a pass draws its indices, and the states of the samplers that decide it."""
