"""What the memory of a trained model holds: measured over a split, drawn, and put on a page."""
