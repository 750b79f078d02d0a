"""Which endpoint OPENAI_BASE_URL names, and what of that is secret.

User name, password and query are kept apart from the rest of the URL, which alone is hashed and shown.
"""

import os
from base64 import b64encode
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sails_eval.core.errors import UserError


def url() -> str:
    """The endpoint's URL without what may be secret in it. Raises UserError where it is none."""
    given = _given()
    bare = given._replace(netloc=given.netloc.rpartition("@")[2], path=given.path.rstrip("/"), query="", fragment="")
    return bare.geturl()


def query() -> dict[str, str]:
    """What stands after the question mark, for every request to carry."""
    return dict(parse_qsl(_given().query))


def headers() -> dict[str, str]:
    """The header that stands for user name and password, if they are in the URL; it takes the place of the key's."""
    user = _given().netloc.rpartition("@")[0]
    return {"Authorization": f"Basic {b64encode(unquote(user).encode()).decode()}"} if user else {}


def told() -> str:
    """The endpoint for messages."""
    return f"judge endpoint {url()}"


def without_secrets(text: str) -> str:
    """Text from an endpoint, which may quote the key, its own URL or a header."""
    given = _given()
    sent = [os.environ.get("OPENAI_API_KEY"), *query().values(), *(value.split()[-1] for value in headers().values())]
    written = [given.username, given.password, given.query]
    secrets = {secret for part in (*sent, *written) if part for secret in (part, unquote(part))}
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        if len(secret) >= 8:  # shorter keys stand for servers without any
            text = text.replace(secret, "[key]")
    return text


def _given() -> SplitResult:
    try:
        found = urlsplit(os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        if found.scheme in ("http", "https") and found.hostname and found.port != 0:  # a port that is no number raises
            return found
    except ValueError:
        pass
    raise UserError("OPENAI_BASE_URL is not a valid URL; set it to one such as https://host:port/v1")
