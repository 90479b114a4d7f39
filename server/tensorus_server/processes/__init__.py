"""Server processes: the port, the workers, their supervisor, and signals."""
