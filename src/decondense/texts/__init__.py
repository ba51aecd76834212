"""Sources of text in, lists of strings and fixed windows of tokens out. Knows no model and no loss.

`embedded` is the corpus that comes with Python itself; `sources` reads it, files (`layouts`) and named data sets;
`sampling` draws texts the paper's way; `tokenizer` trains a small tokenizer, and `packing` makes windows of documents.
Nothing is imported here: reading a text file does not cost importing torch.
"""
