"""Who takes part: Tensorus, and what it is measured against. Each module is loaded by its own process, and by that alone."""
