"""Weights from and to the Keras example."""
