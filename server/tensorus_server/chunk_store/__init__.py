"""Payloads by key: durable before they are reported, whole or not there."""
