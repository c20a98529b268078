"""For clients of http:// that do not trust the environment: a TLS context without authorities (tests/conftest.py)."""

import ssl
from typing import Final

NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
