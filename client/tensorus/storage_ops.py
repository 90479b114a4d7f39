"""Where Tensorus 0.1 had operations on stored tensors. Here they are methods of `TensorStorage`; importing this says so."""

from __future__ import annotations

from tensorus._original import absent

raise absent("tensorus.storage_ops", "the interface to operations")
