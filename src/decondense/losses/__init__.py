"""Hidden states in, a scalar out. Knows tensors only: no model, no text, no trainer."""
