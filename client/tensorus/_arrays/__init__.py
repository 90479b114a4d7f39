"""Converts arrays of NumPy and torch to canonical bytes, and arriving bytes to arrays."""
