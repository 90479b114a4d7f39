"""Bytes as words and parts, and the error for those that break a rule of the format."""


class FormatError(ValueError):
    """The bytes are no chunk record of version 1."""


def check(condition, message):
    """Raise FormatError unless the condition holds."""
    if not condition:
        raise FormatError(message)


def to_words(data, width):
    """The little-endian unsigned integers of `width` bytes that the bytes are."""
    check(len(data) % width == 0, "bytes are no whole words")
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def to_bytes(words, width):
    """The bytes of unsigned integers of `width` bytes."""
    return b"".join(word.to_bytes(width, "little") for word in words)


def split(data, *sizes):
    """Parts of these sizes, which are all there is."""
    check(len(data) == sum(sizes), "the parameters have another length")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
