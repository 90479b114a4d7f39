"""Shared code of the groups: processes and their measurements, tables, charts, and the description of the machine."""
