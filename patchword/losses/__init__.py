"""Losses over a square score matrix; one per file."""
