"""Studies: one file a question, from a configuration to results in a folder."""
