"""Certificates for tests, made by the openssl command."""

import subprocess
from pathlib import Path

NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def make(folder: Path, days: int = 30, *, extensions: bool = True) -> tuple[str, str]:
    """The paths of a self-signed certificate of this machine's names, and of its key. A negative number of days: it has
    expired. Without extensions it is one of X.509's version 1.
    """
    cert, key, request = folder / "cert.pem", folder / "key.pem", folder / "request.pem"
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key))
    _openssl("req", *new_key, "-subj", "/CN=localhost", "-addext", NAMES, "-out", str(request))
    signed = ("-signkey", str(key), "-days", str(days), "-out", str(cert))
    _openssl("x509", "-req", "-in", str(request), *signed, *(("-copy_extensions", "copy") if extensions else ()))
    return str(cert), str(key)


def with_password(key: str, path: Path) -> str:
    _openssl("ec", "-in", key, "-aes256", "-passout", "pass:a-password", "-out", str(path))
    return str(path)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
