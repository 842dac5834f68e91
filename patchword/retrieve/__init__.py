"""Asking an index: queries, candidates, exact scores, probabilities, and the reader that stays open."""
