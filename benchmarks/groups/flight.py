"""Arrow Flight as a peer: run as a module it serves until it is ended; the functions below are its client.

It holds its tensor in memory and sends it in batches of 1 MiB. What it is sent it counts, or writes to a file that it syncs.
"""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np
import pyarrow as pa
from pyarrow import flight

BATCH_VALUES = 1024 * 1024 // 4


class Server(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """One tensor to get, and two ways to put one."""

    def __init__(self, mebibytes: int) -> None:
        """Make the tensor and bind a free loopback port."""
        super().__init__("grpc://127.0.0.1:0")
        self._batches = batches(np.random.default_rng(0).standard_normal(mebibytes * 2**18, dtype=np.float32))

    def do_get(self, _context: object, _ticket: object) -> flight.RecordBatchStream:
        """Send the tensor."""
        reader = pa.RecordBatchReader.from_batches(self._batches[0].schema, self._batches)
        return flight.RecordBatchStream(reader)

    def do_put(self, _context: object, descriptor: flight.FlightDescriptor, reader: object, _writer: object) -> None:
        """Count what comes; where the path says so, write and sync it."""
        if descriptor.path[0] == b"count":
            for chunk in reader:  # type: ignore[attr-defined]
                _ = chunk.data.nbytes
            return
        with tempfile.TemporaryFile() as file:
            for chunk in reader:  # type: ignore[attr-defined]
                file.write(memoryview(chunk.data.column(0).buffers()[1])[: chunk.data.num_rows * 4])
            file.flush()
            os.fdatasync(file.fileno())


def batches(values: np.ndarray) -> list[pa.RecordBatch]:
    """Return the values as batches that share their memory."""
    return [
        pa.record_batch([pa.array(values[start : start + BATCH_VALUES])], names=["values"])
        for start in range(0, values.size, BATCH_VALUES)
    ]


def get(client: flight.FlightClient, size: int) -> np.ndarray:
    """Return the tensor in one fresh array."""
    values = np.empty(size, np.float32)
    position = 0
    for chunk in client.do_get(flight.Ticket(b"")):
        part = chunk.data.column(0).to_numpy()
        values[position : position + part.size] = part
        position += part.size
    return values


def put(client: flight.FlightClient, values: np.ndarray, path: str) -> None:
    """Send the values, and wait until they have been taken."""
    parts = batches(values)
    writer, reader = client.do_put(flight.FlightDescriptor.for_path(path), parts[0].schema)
    for part in parts:
        writer.write_batch(part)
    writer.done_writing()
    reader.read()
    writer.close()


if __name__ == "__main__":
    server = Server(int(sys.argv[1]))
    print(server.port, flush=True)
    server.serve()
