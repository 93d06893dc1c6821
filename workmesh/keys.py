"""The mesh's own keys, made at first start: ES256 for clients' JWTs, Ed25519 for tokens and checkpoints."""

from __future__ import annotations

import base64
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from workmesh.ids import is_name
from workmesh.tokens import key_id

ISSUER: Final = "workmesh-local"
AUDIENCE: Final = "workmesh"

CLIENTS_KEY: Final = "clients.key.pem"
CLIENTS_JWKS: Final = "jwks.json"
TOKENS: Final = "tokens"
CHECKPOINTS: Final = "checkpoints"


class KeyFileError(Exception):
    """A key file is missing or holds no key of its kind."""


def make_keys(directory: Path) -> None:
    """Make what is missing of the mesh's keys, private ones of mode 0600.

    Several processes may do so at once: all end with the same keys.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_clients_key(directory)
    for name in (TOKENS, CHECKPOINTS):
        _make_signing_key(directory, name)


def load_private_key(directory: Path, name: str) -> bytes:
    """Return the 32 raw bytes of the Ed25519 private key `<name>.key`; KeyFileError when there is none."""
    path = directory / f"{name}.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"{path}: {error}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds no Ed25519 private key")
    return key.private_bytes_raw()


def load_public_key(directory: Path, name: str) -> bytes:
    """Return the 32 raw bytes of the Ed25519 public key `<name>.pub`; KeyFileError when there is none."""
    path = directory / f"{name}.pub"
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{path}: {error}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise KeyFileError(f"{path} holds no Ed25519 public key")
    return key.public_bytes_raw()


def issue_client_token(
    keys_dir: Path, client: str, roles: Sequence[str] = (), lifetime: float = 3600.0
) -> str:
    """Return a JWT (ES256) for a client that is good for `lifetime` seconds; ValueError for a bad name."""
    if not is_name(client):
        raise ValueError(f"{client!r} does not name a client")
    path = keys_dir / CLIENTS_KEY
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyFileError(f"{path}: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path} holds no ES256 private key")
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": client,
        "roles": list(roles),
        "iat": now,
        "exp": int(now + lifetime),
        "jti": secrets.token_hex(8),
    }
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": _ec_key_id(key.public_key())})


def _make_clients_key(directory: Path) -> None:
    path = directory / CLIENTS_KEY
    if not path.exists():
        _create(path, _private_pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path} holds no ES256 private key")
    # Always derived from the key that is there: whoever lost the race to make it publishes the winner's.
    _create(directory / CLIENTS_JWKS, orjson.dumps({"keys": [_jwk(key.public_key())]}), 0o644)


def _make_signing_key(directory: Path, name: str) -> None:
    path = directory / f"{name}.key"
    if not path.exists():
        _create(path, _private_pem(ed25519.Ed25519PrivateKey.generate()), 0o600)
    private = ed25519.Ed25519PrivateKey.from_private_bytes(load_private_key(directory, name))
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _create(directory / f"{name}.pub", public, 0o644)


def _private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _create(path: Path, data: bytes, mode: int) -> None:
    """Create a file whole or not at all; one that another process created meanwhile stays."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "use": "sig",
        "alg": "ES256",
        "kid": _ec_key_id(key),
        "x": _base64url(numbers.x.to_bytes(32, "big")),
        "y": _base64url(numbers.y.to_bytes(32, "big")),
    }


def _ec_key_id(key: ec.EllipticCurvePublicKey) -> str:
    numbers = key.public_numbers()
    return key_id(numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
