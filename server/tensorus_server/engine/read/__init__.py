"""Reads a tensor or a part of it: finds the chunks that it needs, verifies and decodes them."""
