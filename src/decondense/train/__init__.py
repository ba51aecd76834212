"""Training: a model and batches in, a trained model out. Knows no study and no report."""
