"""How far a verification is, and the token from which it is resumed."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace

from tensorus_codecs.checksum import crc32c
from tensorus_server.engine.paging import decode_token, encode_token
from tensorus_server.errors import InvalidPageTokenError

__all__ = ["Place", "digest_of"]


@dataclass(frozen=True)
class Place:
    """How far a verification is. It is small whatever the store's size, and has no times, so that it survives a restart."""

    generation_max: int
    """Generation of the newest tensor at the start; newer ones are not verified."""
    dataset: int = 0
    """Number of the dataset that is being verified; 0: none yet, or the one that the request names was damaged at the start."""
    after: int = -1
    """Generation of the last tensor that is done, or how many of the request's ids are; -1: not even the dataset's row is."""
    tensors: int = 0
    """Tensors that are done. This and the following count from the very start."""
    stored_bytes: int = 0
    damages: int = 0
    damaged_tensors: int = 0
    undecoded_tensors: int = 0
    reported: int = 0
    """Generation of a tensor that is not done, and of which damage was reported; 0: none."""
    reported_position: int = 0
    """The last of its checks that was reported: see `Step.position`."""
    total_tensors: int | None = None
    """Tensors at the start; None: not known."""
    total_stored_bytes: int | None = None

    @classmethod
    def parse(cls, token: str, digest: int) -> Place:
        """Return the place of a token.

        Args:
            digest: of the request, which must be the one that the token was made for.

        Raises:
            InvalidPageTokenError: the token belongs to another request, or was not issued by this server.
        """
        found, *numbers = decode_token(token, "resume_token") or [None]
        optional = [field.default is None for field in fields(cls)]
        if len(numbers) != len(optional) or not all(map(_is_number, numbers, optional)):
            raise InvalidPageTokenError("resume_token was not issued by this server")
        if found != digest:
            raise InvalidPageTokenError("resume_token belongs to another verification")
        return cls(*numbers)

    def token(self, digest: int) -> str:
        """Return the token of this place; see `parse`."""
        return encode_token([digest, *astuple(self)])

    def after_gone(self, number: int) -> Place:
        """Return the place after a tensor that was deleted or replaced meanwhile. See `after` for the number."""
        return replace(self, after=number, reported=0, reported_position=0)

    def after_verified(self, number: int, stored_bytes: int, *, is_damaged: bool, is_undecoded: bool = False) -> Place:
        """Return the place after a tensor that was verified. See `after` for the number."""
        return replace(
            self,
            after=number,
            reported=0,
            reported_position=0,
            tensors=self.tensors + 1,
            stored_bytes=self.stored_bytes + stored_bytes,
            damaged_tensors=self.damaged_tensors + is_damaged,
            undecoded_tensors=self.undecoded_tensors + is_undecoded,
        )

    def has_reported(self, generation: int, position: int) -> bool:
        """Whether the damage that a check of a tensor found was reported."""
        return generation == self.reported and position <= self.reported_position

    def with_report(self, generation: int, position: int) -> Place:
        """Return the place after a report of what a check of a tensor found."""
        return replace(self, reported=generation, reported_position=position)


def digest_of(dataset: str, ids: list[str]) -> int:
    """Return the digest of what a request verifies."""
    return crc32c(repr((dataset, ids)).encode(errors="surrogatepass"))


def _is_number(value: object, is_optional: bool) -> bool:  # noqa: FBT001 - called by `map`
    return (is_optional and value is None) or (isinstance(value, int) and -1 <= value < 2**63)
