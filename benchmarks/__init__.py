"""Measurements: each is one command that prints a table and writes JSON and a picture."""
