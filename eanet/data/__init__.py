"""A data set's name becomes arrays, labels and class names."""
