"""The wire contract in Python: generated messages, hand framing of bulk data, and metadata values.

`v1/` is generated from `protos/tensorus/v1/tensorus.proto` by `make protos` and committed; nothing in it is edited by hand.
`framing` and `values` are what server and client both need to speak the contract; `plain` makes metadata of what Python
programs have. Nothing here imports the rest of Tensorus.
"""
