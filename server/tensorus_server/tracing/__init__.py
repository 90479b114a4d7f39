"""Traces of calls, by OpenTelemetry. Only a server that is told to trace imports what is in here."""
