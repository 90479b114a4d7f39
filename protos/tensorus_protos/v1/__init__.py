"""Generated from `protos/tensorus/v1/tensorus.proto`; `make protos` writes it, `make protos-check` compares it."""
