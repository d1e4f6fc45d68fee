"""A trained model as a file for other programs, run again by the other side before it is left."""
