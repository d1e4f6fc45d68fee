"""The directory of a run: whose it is, and what stands in it."""
