"""Quantizers, one file per family."""
