"""Evaluation: a model, or the numbers of several runs, in; scores with their uncertainty out."""
