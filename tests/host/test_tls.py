"""What is found out about a certificate before the router serves with it."""

import time
from pathlib import Path

import pytest

from berth.host.tls import CertificateError, certificate, install
from tests.fakes import certificates


def test_reads_names_and_end(tmp_path: Path) -> None:
    found = certificate(*certificates.make(tmp_path, days=30))
    assert found.names == ("localhost", "127.0.0.1")
    assert 29 < (found.ends - time.time()) / 86_400 < 31


def test_rejects_an_expired_certificate(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="certificate has expired"):
        certificate(*certificates.make(tmp_path, days=-1))


def test_rejects_the_key_of_another_certificate(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (cert, _), (_, key) = certificates.make(tmp_path), certificates.make(tmp_path / "other")
    with pytest.raises(CertificateError, match=r"^BERTH_TLS_CERT='.*' with BERTH_TLS_KEY='.*': key values mismatch$"):
        certificate(cert, key)


def test_rejects_a_key_with_a_password(tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path)
    with pytest.raises(CertificateError, match=r"^BERTH_TLS_KEY=.*the key has a password"):
        certificate(cert, certificates.with_password(key, tmp_path / "locked.pem"))


def test_rejects_a_certificate_that_the_router_could_not_read(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"version 1 of X\.509"):
        certificate(*certificates.make(tmp_path, extensions=False))


def test_the_error_names_the_variable_whose_file_is_missing_or_holds_something_else(tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path)
    missing, folder = str(tmp_path / "no.pem"), str(tmp_path)
    for pair, reason in {
        (key, key): f"BERTH_TLS_CERT={key!r} has no certificate",
        (cert, cert): f"BERTH_TLS_KEY={cert!r} has no private key",
        (__file__, key): f"BERTH_TLS_CERT={__file__!r} has no certificate",
        (missing, key): f"BERTH_TLS_CERT={missing!r}: No such file",
        (cert, missing): f"BERTH_TLS_KEY={missing!r}: No such file",
        (cert, folder): f"BERTH_TLS_KEY={folder!r}: Is a directory",
    }.items():
        with pytest.raises(CertificateError) as caught:
            certificate(*pair)
        assert str(caught.value).startswith(reason)


def test_the_routers_copy_has_the_key_of_one_file_and_the_certificates_of_the_other(tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path)
    both, copy = tmp_path / "both.pem", tmp_path / "tls.pem"
    both.write_text("a comment\n" + Path(cert).read_text() + Path(key).read_text())
    for pair in ((cert, key), (str(both), key), (cert, str(both)), (str(both), str(both))):
        install(*pair, copy)
        assert copy.read_text() == Path(key).read_text() + Path(cert).read_text()
    assert copy.stat().st_mode & 0o777 == 0o600


def test_the_routers_copy_is_not_touched_by_a_bad_pair(tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path)
    install(cert, key, tmp_path / "tls.pem")
    before = (tmp_path / "tls.pem").read_bytes()
    certificates.make(tmp_path, days=-1)
    with pytest.raises(CertificateError):
        install(cert, key, tmp_path / "tls.pem")
    assert (tmp_path / "tls.pem").read_bytes() == before
