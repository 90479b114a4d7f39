"""Servers as processes: a port, workers, their supervisor, signals."""
