"""Inserts: segments are encoded into chunks, chunks form a payload, and a commit makes the tensor visible."""
