"""A trained model for other programs: loaded from a run, it answers images of any number."""
