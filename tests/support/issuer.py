"""An OpenID Connect issuer on this machine: its metadata and keys over HTTP, and the tokens that it signs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

AUDIENCE = "tensorus"


class Issuer:
    """One issuer. `rotate` gives it another key."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.metadata: dict[str, Any] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.fetches = 0
        """How often its keys were fetched."""
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on; the others are withdrawn."""
        self.keys = {f"key-{time.monotonic_ns()}": ec.generate_private_key(ec.SECP256R1())}

    def answer(self, path: str) -> object:
        """Return the document at a path."""
        if path == "/.well-known/openid-configuration":
            return self.metadata
        self.fetches += 1
        public = jwt.algorithms.ECAlgorithm.to_jwk
        return {
            "keys": [
                {**json.loads(public(key.public_key())), "kid": name, "alg": "ES256", "use": "sig"}
                for name, key in self.keys.items()
            ]
        }

    def token(self, name: str = "alice", *, algorithm: str = "ES256", key: Any = None, **changes: Any) -> str:
        """Return a token; `changes` replaces claims, None removes one; `kid` is that of the header."""
        key_id, own = next(iter(self.keys.items()))
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": name, "exp": time.time() + 60}
        named = changes.pop("kid", key_id)
        headers = {} if named is None else {"kid": named}
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(claims, own if key is None else key, algorithm=algorithm, headers=headers)


@contextmanager
def issuer() -> Iterator[Issuer]:
    """Run an issuer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(found.answer(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Issuer(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
