"""How endpoints and servers are asked: every call ends in time, goes nowhere else, and gets a reply of bounded size."""

import asyncio
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import openai

from sails_eval.core.errors import first_line
from sails_eval.core.network import check_network, through_proxy

LARGEST = 8 * 2**20
"""Bytes of a reply at most, once it is unpacked, unless another bound is given."""


class RefusedReplyError(openai.OpenAIError):
    """A reply that is not taken: it leads elsewhere, is too large, or is packed in a way that was not asked for."""


class Client(openai.DefaultAsyncHttpxClient):
    """Follows no redirect, for what was asked may be for this host only, and reads at most `largest` bytes.

    The timeout of a request holds for the whole of it, not for each read by itself.
    """

    def __init__(self, largest: int) -> None:
        super().__init__(follow_redirects=False, headers={"Accept-Encoding": "gzip"})
        self._largest = largest

    async def send(self, request: Any, **options: Any) -> Any:
        """Raises RefusedReplyError, the library's own errors, and openai's APITimeoutError once time is up."""
        try:
            async with asyncio.timeout(request.extensions["timeout"]["read"]):
                response = await super().send(request, **{**options, "stream": True, "follow_redirects": False})
                try:
                    return type(response)(
                        response.status_code,
                        headers=[one for one in response.headers.multi_items() if one[0] not in FRAMING],
                        content=await self._body(response),
                        request=request,
                    )
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise openai.APITimeoutError(request=request) from error

    async def _body(self, response: Any) -> bytes:
        """What a response holds, unpacked."""
        if response.has_redirect_location:
            there = urlsplit(str(response.next_request.url if response.next_request else response.headers["location"]))
            raise RefusedReplyError(
                f"it redirects to {there.scheme}://{there.hostname}{there.path[:100]}, and redirects are not followed"
            )
        if response.is_stream_consumed:  # by a transport that reads whole replies, as those of recorders do
            return bytes(response.content)
        packed = response.headers.get("content-encoding", "identity").lower()
        if packed not in ("identity", "gzip"):
            raise RefusedReplyError("its reply has a compression that was not requested")
        unpack, body = zlib.decompressobj(wbits=31), bytearray()
        try:
            async for piece in response.aiter_raw():
                body += unpack.decompress(piece, self._largest + 1 - len(body)) if packed == "gzip" else piece
                if len(body) > self._largest:
                    raise RefusedReplyError(f"its reply has more than {self._largest / 2**20:.0f} MB")
        except zlib.error as error:
            raise RefusedReplyError("its reply cannot be decompressed") from error
        return bytes(body)


FRAMING = ("content-encoding", "content-length", "transfer-encoding")
"""Headers about how a reply was sent, which do not hold for it once it is read."""


def connect(
    url: str,
    key: str,
    *,
    timeout: float,
    largest: int = LARGEST,
    query: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> openai.AsyncOpenAI:
    """A client, for one event loop, of what speaks OpenAI's API at `url`; it makes no second attempt.

    Raises UserError where the environment names certificates or a proxy that cannot be used.
    """
    check_network()
    return openai.AsyncOpenAI(
        base_url=url,
        api_key=key,
        timeout=timeout,
        max_retries=0,
        default_query=query,
        default_headers=headers,
        http_client=Client(largest),
    )


def why(error: Exception, url: str) -> str:
    """Why `url` gave no answer, in a clause: what it says, or the first cause and what in the environment it may be."""
    if isinstance(error, openai.APIStatusError):
        return first_line(error)[:200]
    cause: BaseException = error
    while cause.__cause__ is not None and (
        type(cause) is openai.APIConnectionError or not isinstance(cause, openai.OpenAIError)
    ):
        cause = cause.__cause__
    said = "timed out" if isinstance(cause, (TimeoutError, openai.APITimeoutError)) else first_line(cause)[:200]
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return f"{said}; SSL_CERT_FILE can name a file with the certificate of its authority"
    return said + through_proxy(url)
