"""Names of Tensorus 0.1 that this version lacks. The error of importing one names the page that lists replacements."""

from __future__ import annotations

from tensorus._version import __version__

__all__ = ["ABSENT_NAMES", "absent"]

ABSENT_NAMES = frozenset(
    {
        "SearchResults",
        "SimilarityMetric",
        "TensorDescriptor",
        "TensorEmbeddingIndex",
        "TensorProperty",
        "TensorSimilarityResult",
        "TensorWrapper",
        "Tensorus",
        "TensorusModel",
    }
)
"""Names that the package itself exported."""


def absent(name: str, what: str) -> ImportError:
    """Return the error for an import of something that only Tensorus 0.1 has.

    Args:
        name: the qualified name, such as "tensorus.api".
        what: a description, such as "the class".
    """
    return ImportError(
        f"{name}, {what} of Tensorus 0.1, is not in tensorus {__version__}, which is a tensor store. "
        "Programs that use tensorus.tensor_storage and tensorus.compression run; "
        "docs/MIGRATING.md lists what is missing, and what to use instead",
        name=name,
    )
