"""Where Tensorus 0.1 had its REST API. This version has none, and importing this module says so."""

from __future__ import annotations

from tensorus._original import absent

raise absent("tensorus.api", "the REST API")
