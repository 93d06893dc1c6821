from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import jwt
import pytest
from nacl.signing import SigningKey

from workmesh import keys


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    keys.make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_private_keys_are_readable_by_their_owner_alone(directory: Path) -> None:
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("clients.key.pem", "tokens.key", "checkpoints.key"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_making_keys_again_keeps_those_that_are_there(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert set(before) == {
        "clients.key.pem",
        "jwks.json",
        "tokens.key",
        "tokens.pub",
        "checkpoints.key",
        "checkpoints.pub",
    }
    keys.make_keys(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_lost_public_key_is_made_again_from_its_private_one(directory: Path) -> None:
    lost = directory / "tokens.pub"
    before = lost.read_bytes()
    lost.unlink()
    keys.make_keys(directory)
    assert lost.read_bytes() == before


def test_several_that_make_keys_at_once_end_with_matching_ones(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    threads = [threading.Thread(target=keys.make_keys, args=(directory,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(directory.iterdir())) == 6
    for name in (keys.TOKENS, keys.CHECKPOINTS):
        private = SigningKey(keys.load_private_key(directory, name))
        assert bytes(private.verify_key) == keys.load_public_key(directory, name)
    assert decode(directory, keys.issue_client_token(directory, "acme"))["sub"] == "acme"


def test_tokens_and_checkpoints_have_keys_of_their_own(directory: Path) -> None:
    assert keys.load_public_key(directory, keys.TOKENS) != keys.load_public_key(directory, keys.CHECKPOINTS)


def decode(directory: Path, token: str) -> dict[str, object]:
    known = jwt.PyJWKSet.from_dict(json.loads((directory / "jwks.json").read_text()))
    key = known[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, object] = jwt.decode(
        token, key, algorithms=["ES256"], audience="workmesh", issuer="workmesh-local"
    )
    return claims


def test_a_clients_token_is_verified_by_the_published_key_set(directory: Path) -> None:
    claims = decode(directory, keys.issue_client_token(directory, "acme", ["operator"], 60))
    assert (claims["sub"], claims["roles"]) == ("acme", ["operator"])
    assert claims["exp"] == int(str(claims["iat"])) + 60


def test_an_expired_token_is_refused(directory: Path) -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        decode(directory, keys.issue_client_token(directory, "acme", lifetime=-10))


def test_a_token_for_a_name_that_is_none_is_not_issued(directory: Path) -> None:
    with pytest.raises(ValueError, match="does not name a client"):
        keys.issue_client_token(directory, "Acme.*")


def test_a_missing_or_foreign_key_is_named(directory: Path) -> None:
    (directory / "tokens.key").write_text("no key")
    with pytest.raises(keys.KeyFileError, match=r"tokens\.key"):
        keys.load_private_key(directory, keys.TOKENS)
    (directory / "tokens.key").write_bytes((directory / "clients.key.pem").read_bytes())
    with pytest.raises(keys.KeyFileError, match="holds no Ed25519"):
        keys.load_private_key(directory, keys.TOKENS)
    with pytest.raises(keys.KeyFileError, match=r"none\.pub"):
        keys.load_public_key(directory, "none")
