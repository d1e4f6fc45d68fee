"""One training by several processes, on one host or many."""
