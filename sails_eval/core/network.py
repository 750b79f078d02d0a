"""What the environment says of proxies and certificates, which every HTTP library here obeys."""

import os
import ssl
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sails_eval.core.errors import UserError, first_line

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
CERTIFICATES = "SSL_CERT_FILE"


def check_network() -> None:
    """Raise UserError where the environment names certificates or a proxy that cannot be used.

    To be called before a library reads them, each of which fails in a way of its own. No proxy's URL is shown: it may
    hold a password.
    """
    if path := os.environ.get(CERTIFICATES):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:
            raise UserError(
                f"{CERTIFICATES}={path}: {error.strerror or first_line(error)}; correct or unset it"
            ) from error
    for name in filter(_set, PROXIES):
        scheme = _scheme(_set(name))
        if scheme.startswith("socks5") and not find_spec("socksio"):
            raise UserError(f"{name}: a SOCKS proxy needs another package: pip install socksio")
        if scheme not in ("http", "https", "socks5", "socks5h"):
            raise UserError(f"{name} is not a valid proxy (expected http://host:port); correct or unset it")


def through_proxy(url: str) -> str:
    """A clause for messages where requests to a URL go through a proxy; else empty."""
    where, proxies = urlsplit(url), getproxies()
    if not (where.scheme in proxies or "all" in proxies) or proxy_bypass(where.hostname or ""):
        return ""
    return f" (through the proxy of {' or '.join(filter(_set, PROXIES))}; NO_PROXY can name hosts that need none)"


def _set(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.lower()) or ""


def _scheme(proxy: str) -> str:
    """Empty where it is no URL of a host; without a scheme it is http."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return parts.scheme if parts.hostname and parts.port != 0 else ""  # a port that is no number raises
    except ValueError:
        return ""
