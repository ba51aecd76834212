"""Files of benchmarks in, rows in the schema of the hub's data sets out. Knows no model, no prompt and no score."""
