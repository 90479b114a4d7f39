"""Estimates what a workload costs in requests to an object store, and in money.

    python examples/object_store_costs.py --tensors 1000000 --stored-bytes 100000
    python examples/object_store_costs.py --tensors 200 --stored-bytes 46500000 --reads 30 --get-price 0.4

Prices are parameters, in dollars per million requests and per GB and month. The defaults are those of S3 Standard in November
2026. Traffic out of the provider's network, which many charge for, is another parameter. The catalogue, and the requests that
rewrite packs after deletions, are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

INLINE_BYTES_MAX = 64 * 1024
PACKED_BYTES_MAX = 4 * 1024**2
PACK_BYTES = 16 * 1024**2
SEGMENT_BYTES = 8 * 1024**2
"""Segments have 8 MiB; the last one, of up to twice that, is counted as two."""
FETCHED_BYTES = 3 * 1024**2
"""What a read of a large tensor gets with one request, on average (measured: 355 requests for 1 GiB)."""


@dataclass(frozen=True)
class Requests:
    """Requests to the object store."""

    puts: int
    gets: int
    """To read each tensor once, with nothing cached."""
    where: str


def requests_for(tensors: int, stored_bytes: int, commit_group: int) -> Requests:
    """Return the requests for tensors of equal size.

    Args:
        stored_bytes: of one tensor, compressed.
        commit_group: how many tensors are committed together: up to 512 in one insert, 1 if each waits for the last one. A
            commit takes what has arrived, so groups may be smaller.
    """
    if stored_bytes <= INLINE_BYTES_MAX:
        return Requests(0, 0, "in the catalogue")
    if stored_bytes <= PACKED_BYTES_MAX:
        per_pack = max(1, min(commit_group, PACK_BYTES // stored_bytes))
        return Requests(-(-tensors // per_pack), tensors, f"{per_pack} in each pack")
    segments = -(-stored_bytes // SEGMENT_BYTES)
    fetches = -(-stored_bytes // FETCHED_BYTES)
    return Requests(tensors * segments, tensors * fetches, f"{segments} segments each")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=1_000_000)
    parser.add_argument("--stored-bytes", type=int, default=100_000, help="of one tensor, compressed")
    parser.add_argument("--commit-group", type=int, default=512, help="tensors that are committed together")
    parser.add_argument(
        "--reads", type=float, default=1.0, help="how often everything is read in a month, past the cache"
    )
    parser.add_argument("--put-price", type=float, default=5.0, help="dollars per million PUT")
    parser.add_argument("--get-price", type=float, default=0.4, help="dollars per million GET")
    parser.add_argument("--storage-price", type=float, default=0.023, help="dollars per GB and month")
    parser.add_argument("--traffic-price", type=float, default=0.0, help="dollars per GB read")
    args = parser.parse_args()
    found = requests_for(args.tensors, args.stored_bytes, args.commit_group)
    gigabytes = args.tensors * args.stored_bytes / 1e9 if found.puts else 0.0
    read_gigabytes = gigabytes * args.reads
    gets = found.gets * args.reads
    rows = [
        ("stored", found.where, ""),
        ("PUT", f"{found.puts:,}", f"${found.puts * args.put_price / 1e6:,.4f} once"),
        ("GET", f"{gets:,.0f} a month", f"${gets * args.get_price / 1e6:,.4f} a month"),
        ("space", f"{gigabytes:,.1f} GB", f"${gigabytes * args.storage_price:,.2f} a month"),
        ("traffic", f"{read_gigabytes:,.1f} GB a month", f"${read_gigabytes * args.traffic_price:,.2f} a month"),
    ]
    for name, amount, cost in rows:
        print(f"{name:<8} {amount:>28} {cost:>24}")


if __name__ == "__main__":
    main()
