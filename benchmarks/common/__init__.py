"""What the groups share: processes and what is measured of them, tables, charts, and the machine's name."""
