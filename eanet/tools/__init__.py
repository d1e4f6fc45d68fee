"""Commands beside training, each of one file."""
