"""A run that starts from weights that exist."""
