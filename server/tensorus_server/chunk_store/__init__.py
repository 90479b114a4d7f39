"""The chunk store: payloads by key. A payload is durable before its key is returned, and is either complete or absent."""
