"""What is found out about a certificate before the router serves with it."""

import time
from pathlib import Path

import pytest

from berth.host.tls import certificate
from tests.fakes import certificates


def test_reads_names_and_end(tmp_path: Path) -> None:
    found = certificate(*certificates.make(tmp_path, days=30))
    assert found.names == ("localhost", "127.0.0.1")
    assert 29 < (found.ends - time.time()) / 86_400 < 31


def test_rejects_an_expired_certificate(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="certificate has expired"):
        certificate(*certificates.make(tmp_path, days=-1))


def test_rejects_the_key_of_another_certificate(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (cert, _), (_, key) = certificates.make(tmp_path), certificates.make(tmp_path / "other")
    with pytest.raises(OSError, match="key values mismatch"):
        certificate(cert, key)


def test_rejects_a_key_with_a_password(tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path)
    with pytest.raises(OSError, match="the key has a password"):
        certificate(cert, certificates.with_password(key, tmp_path / "locked.pem"))


def test_rejects_files_that_are_missing_or_hold_something_else(tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path)
    for pair in ((key, key), (cert, cert), (str(tmp_path / "no.pem"), key), (cert, str(tmp_path)), (__file__, key)):
        with pytest.raises(OSError, match=r"PEM|No such file|directory"):
            certificate(*pair)
