"""A page on which a trained network is tried: drop an image, see classes and attention."""
