"""The wire contract in Python: generated messages, hand framing of bulk data, and metadata values.

`make protos` generates `v1/` from `protos/tensorus/v1/tensorus.proto`; the result is committed and never edited by hand.
Server and client both use `framing` and `values` to speak the contract. `plain` converts Python values to metadata values;
`limits` and `rules` say which ids and metadata a server accepts.
Nothing here imports the rest of Tensorus.
"""
