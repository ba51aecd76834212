"""Sources of text in, lists of strings and fixed windows of tokens out. Knows no model and no loss.

`embedded` holds the corpus that comes with Python itself, `sources` reads files and named data sets, `sampling` draws texts
the paper's way, `tokenizer` trains a small tokenizer and `packing` turns documents into windows with document boundaries.
Nothing is imported here, so that reading a text file does not cost importing torch.
"""
