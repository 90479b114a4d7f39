"""Compressors, one file per family."""
