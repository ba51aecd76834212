"""One file a command of the command line, each with its options as a dataclass and `run(config)`. Knows no parsing."""
