"""tensorus explain."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from tensorus._allocator import tune_allocator
from tensorus._arrays.canonical import as_numpy, dtype_name
from tensorus._arrays.sample import PIECE_BYTES, SAMPLE_BYTES_MAX, sample_of
from tensorus._backend import Sample
from tensorus._grpc.convert_dataset import merged_shares
from tensorus.cli._bases import BASES
from tensorus.cli._connection import DEFAULT_ADDRESS, backend_of, connected, naming, server_options
from tensorus.cli._explained import DTypeExplanation
from tensorus.cli._explained_base import explain_base
from tensorus.cli._files import read_tensors
from tensorus.cli._options import SIZE, json_option
from tensorus.cli._output import (
    counted,
    human_bytes,
    human_encoding,
    human_error,
    print_json,
    print_table,
    print_text,
    progress_bar,
)
from tensorus.types import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus.cli._bases import Place
    from tensorus.cli._connection import ServerOptions
    from tensorus.types import PolicyExplanation

__all__ = ["explain"]

_ERROR_MAX = 0.01
"""Default error limit of the lossy preset that is recommended beside the smallest exact one."""

Explain: TypeAlias = "Callable[[Sample, Sequence[Policy]], Iterable[PolicyExplanation]]"
"""As `Backend.explain`."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--preset", "presets", multiple=True, help="Explain only this preset; can be repeated.  [default: all]")
@click.option(
    "--max-relative-error",
    type=click.FloatRange(0),
    help="Error limit for every preset: a chunk that would exceed it gets a more exact encoding.",
)
@click.option(
    "--sample",
    "sample_bytes",
    type=SIZE,
    default="32MiB",
    show_default=True,
    help="How much of the file to examine (1MiB to 64MiB).",
)
@click.option(
    "--base",
    type=BASES,
    metavar="DATASET[@STATE]",
    help="Also show the tensors as differences to those of the same ids in this dataset, as `tensorus put --base` stores them. "
    "The dataset is on the server, or in the folder of --store.",
)
@server_options(
    click.option(
        "--server",
        metavar="HOST:PORT[,...]",
        help="Measure on this server.  [default: in this process, unless --profile is given; for --base: TENSORUS_ADDRESS, "
        f"that of the profile, or {DEFAULT_ADDRESS}]",
    )
)
@click.option(
    "--store", type=click.Path(exists=True, file_okay=False), help="The folder of the store that has the bases."
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Plot ratio and error to this .png, .svg or .pdf file; an existing file is overwritten.",
)
@json_option
def explain(
    file: Path,
    presets: tuple[str, ...],
    max_relative_error: float | None,
    sample_bytes: int,
    base: Place | None,
    server: ServerOptions,
    store: str | None,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    """Show what each preset would do to the tensors of FILE.

    Ratio, error and speed are measured on this machine, or on the server that --server names. Nothing is stored, and no store
    is needed. FILE is any file that `tensorus put` reads. A large file is sampled: pieces of 1 MiB of large tensors, and whole
    small tensors of every size; every dtype gets its share. Speeds are for one core, without disk and network.

    \b
    Examples:
      tensorus explain model.safetensors
      tensorus explain model.safetensors --preset balanced --preset maximum --max-relative-error 1e-3
      tensorus explain activations.npy --plot activations.png
      tensorus explain step2000.safetensors --base step1000
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    if not PIECE_BYTES <= sample_bytes <= SAMPLE_BYTES_MAX:
        raise click.BadParameter("must be from 1MiB to 64MiB", param_hint="--sample")
    draw = None if plot is None else _drawer(plot)
    error_max = _ERROR_MAX if max_relative_error is None else max_relative_error
    arrays = _by_dtype(file)
    samples = _samples(arrays, sample_bytes)
    with ExitStack() as stack:
        ask = stack.enter_context(_explainer(server if server.is_given else None))
        client = None if base is None else stack.enter_context(connected(server, store, reads=True))
        bar = stack.enter_context(progress_bar(quiet=as_json))
        policies = [Policy(preset=name, max_relative_error=max_relative_error) for name in presets or _presets(ask)]
        task = bar.add_task(
            "explaining", total=len(policies) * sum(sample.canonical_bytes for sample in samples.values())
        )
        found = []
        for dtype, sample in samples.items():
            explanations = []
            for explanation in ask(sample, policies):
                explanations.append(explanation)
                bar.advance(task, explanation.canonical_bytes)
            explained = _explained(dtype, list(arrays[dtype].values()), explanations, error_max)
            if client is not None and base is not None:
                explained = replace(explained, base=explain_base(client, base, arrays[dtype], sample.canonical_bytes))
            found.append(explained)
    if draw is not None:
        draw(plot, title=f"Presets on {file.name}", explained=found, error_max=error_max)
    if as_json:
        print_json(found)
        return
    for number, explained in enumerate(found):
        if number:
            print_text("")
        _print(explained, error_max)


def _drawer(plot: Path) -> Callable[..., None]:
    """Return the function that draws. Called first, so that a missing library or bad path is reported before the measuring."""
    try:
        from tensorus.cli._plot import PICTURES, draw  # noqa: PLC0415 - of an extra
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        raise ImportError(f"{library} is not installed: pip install 'tensorus[plot]'", name=library) from error
    if plot.suffix.lower() not in PICTURES:
        raise click.BadParameter(f"{plot} must end in {', '.join(PICTURES)}", param_hint="--plot")
    if not plot.absolute().parent.is_dir():
        raise click.BadParameter(f"folder {plot.parent} does not exist", param_hint="--plot")
    return draw


def _by_dtype(file: Path) -> dict[str, dict[str, AnyArray]]:
    """Return the non-empty arrays by dtype and name, the dtype with the most bytes first."""
    found: dict[str, dict[str, AnyArray]] = {}
    for name, tensor in read_tensors(file):
        array = as_numpy(tensor)
        if array.size:
            found.setdefault(dtype_name(array), {})[name] = array
    if not found:
        raise ValueError(f"{file} has no values")
    return dict(sorted(found.items(), key=lambda entry: _total_bytes(entry[1].values()), reverse=True))


def _samples(arrays: Mapping[str, Mapping[str, AnyArray]], bytes_max: int) -> dict[str, Sample]:
    """Return a sample of each dtype. Dtypes share `bytes_max` equally; what a small dtype does not use goes to the others."""
    shares = {}
    left_bytes = bytes_max
    # Start with the smallest dtype, which is last, so that its unused share is known to the others.
    for number, dtype in enumerate(reversed(list(arrays))):
        share = min(_total_bytes(arrays[dtype].values()), left_bytes // (len(arrays) - number))
        left_bytes -= share
        shares[dtype] = max(share, PIECE_BYTES)
    return {dtype: sample_of(list(arrays[dtype].values()), shares[dtype]) for dtype in arrays}


@contextmanager
def _explainer(server: ServerOptions | None) -> Iterator[Explain]:
    """Yield a function that explains, on a server or else in this process.

    Raises:
        UnavailableError: the server cannot be reached; the message says what to do.
    """
    if server is None:
        from tensorus.embedded import explain_here  # noqa: PLC0415 - the thin client has no engine

        # A server does the same, so that speeds measured here hold there.
        tune_allocator()
        yield explain_here
        return
    with (
        naming(server.connection, "; omit --server to measure in this process"),
        closing(backend_of(server.connection)) as backend,
    ):
        yield backend.explain


def _presets(ask: Explain) -> list[str]:
    """Return the names of all presets. Explaining an empty sample returns one explanation for each, at once."""
    return [found.policy.preset or "" for found in ask(Sample("uint8", (0,), 0, lambda _: iter(())), [])]


def _explained(
    dtype: str, arrays: Sequence[AnyArray], explanations: list[PolicyExplanation], error_max: float
) -> DTypeExplanation:
    exact = [found for found in explanations if not found.lossy]
    within = [found for found in explanations if found.relative_error <= error_max]
    return DTypeExplanation(
        dtype=dtype,
        tensors=len(arrays),
        canonical_bytes=_total_bytes(arrays),
        sample_bytes=explanations[0].canonical_bytes,
        smallest_exact=_smallest(exact),
        smallest_within_error=_smallest(within),
        explanations=explanations,
    )


def _smallest(explanations: Sequence[PolicyExplanation]) -> str | None:
    """Return the preset that stores the fewest bytes, the first of equal ones."""
    return min(explanations, key=lambda found: found.stored_bytes).policy.preset if explanations else None


def _print(explained: DTypeExplanation, error_max: float) -> None:
    of_all = "all" if explained.sample_bytes == explained.canonical_bytes else human_bytes(explained.sample_bytes)
    print_text(
        f"{explained.dtype}: {of_all} of {counted(explained.tensors, 'tensor')}, {human_bytes(explained.canonical_bytes)}"
    )
    print_table(
        ["preset", ">ratio", ">error", ">encode MB/s", ">decode MB/s", "encodings"],
        (
            (
                f"{found.policy.preset}, with base" if found.has_base else found.policy.preset or "",
                f"{found.ratio:.2f}",
                human_error(found),
                _megabytes(found.encode_bytes_per_second),
                _megabytes(found.decode_bytes_per_second),
                _encodings(found),
            )
            for found in (*explained.explanations, *([] if explained.base is None else [explained.base.explanation]))
        ),
    )
    if explained.base is not None:
        base = explained.base
        print_text(
            f"With base: {base.tensors:,} of {counted(explained.tensors, 'tensor')} have one in {base.dataset}, "
            f"{human_bytes(base.explanation.canonical_bytes)} of {human_bytes(base.canonical_bytes)} were examined. "
            "Who reads such a tensor reads its base, too."
        )
    for found in explained.explanations:
        if found.fallback_reason:
            print_text(f"{found.policy.preset}: {found.fallback_reason}")
    if explained.tensors > 1 and (worst := _worst_errors(explained)):
        print_text(f"Errors are over all values. The largest error of a single tensor: {worst}.")
    print_text(_advice(explained, error_max))


def _worst_errors(explained: DTypeExplanation) -> str:
    return ", ".join(
        f"{found.policy.preset} {found.worst_relative_error:.1e}"
        for found in explained.explanations
        if found.worst_relative_error > found.relative_error
    )


def _megabytes(bytes_per_second: float) -> str:
    megabytes = bytes_per_second / 1e6
    return f"{megabytes:,.0f}" if megabytes >= 10 else f"{megabytes:.1f}"


def _encodings(found: PolicyExplanation) -> str:
    """Return the chains of codecs; if there are several, each with its number of chunks."""
    shares = merged_shares(found.encodings)
    if len(shares) == 1:
        return human_encoding(shares[0].codecs)
    return ", ".join(f"{share.chunks} x {human_encoding(share.codecs)}" for share in shares)


def _advice(explained: DTypeExplanation, error_max: float) -> str:
    by_preset = {found.policy.preset: found for found in explained.explanations}

    def named(preset: str) -> str:
        found = by_preset[preset]
        error = f", error {human_error(found)}" if found.lossy else ""
        return f"{preset}, ratio {found.ratio:.2f}{error}"

    exact, within = explained.smallest_exact, explained.smallest_within_error
    if exact is not None and exact == within:
        return f"Smallest: {named(exact)}, and exact."
    sentences = ["None is exact." if exact is None else f"Smallest exact: {named(exact)}."]
    limit = f"error of at most {100 * error_max:g} %"
    sentences.append(f"None has an {limit}." if within is None else f"Smallest with an {limit}: {named(within)}.")
    return " ".join(sentences)


def _total_bytes(arrays: Iterable[AnyArray]) -> int:
    return sum(array.nbytes for array in arrays)
