"""The HTTP service over an index, and its page."""
