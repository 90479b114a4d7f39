"""Verification: reads everything that is stored again, and reports what is damaged. See `verification.py`."""
