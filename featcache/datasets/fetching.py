"""A file on the net -> the same file on disk, over cut connections, checked before anyone reads it.

Bytes go to NAME.partial; NAME.partial.json says what they are the beginning of. NAME itself appears by a rename, whole
and checked, or not at all. The standard library's client serves: resuming is a header and a comparison in any of them,
and which other client is installed beside us changes with the releases of huggingface_hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Final

from featcache import __version__
from featcache.datasets.about import Download
from featcache.errors import DataError

CHUNK_BYTES: Final = 1 << 20
TOKEN_HOST: Final = "huggingface.co"
_MAX_PAUSE_S: Final = 60.0
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # the server says: later
_LOGIN: Final = frozenset({401, 403})

Progress = Callable[[int, int | None], None]
"""Told the bytes that are there and the bytes there will be, None where the server does not say."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for."""

    attempts: int = 5
    """Tries in a row that bring no new byte."""
    timeout_s: float = 60.0
    """Seconds without a byte after which a connection counts as cut."""
    pause_s: float = 1.0
    """Seconds before the second try; doubled at each further one."""


PATIENT: Final = Patience()


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """What a partial file is the beginning of."""

    url: str
    validator: str
    """The server's strong ETag or Last-Modified, empty where it sent neither."""
    total: int | None
    """Bytes of the whole file, where the server said."""


class _CutError(Exception):
    """The connection gave out, or the server asks for patience; another try may help."""

    def __init__(self, reason: str, *, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _Partial:
    """The bytes of a file that have come so far."""

    def __init__(self, target: Path) -> None:
        self.file, self._note = partial_files(target)

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def origin(self) -> _Origin | None:
        """What the bytes are the beginning of, None where nothing sound says so."""
        try:
            return _Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def begin(self, origin: _Origin) -> None:
        """Drop what is there; the bytes to come are `origin`'s."""
        self.file.write_bytes(b"")  # first, so that no old bytes ever stand under the new note
        self._note.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        with self.file.open("rb+") as file:
            os.fsync(file.fileno())
        self.file.replace(target)
        self._note.unlink(missing_ok=True)


def fetch(download: Download, folder: Path, *, page: str, progress: Progress, patience: Patience = PATIENT) -> str:
    """The SHA-256, in hex, of the file that now lies at folder/`download.file`, whole and checked.

    `page` is its publisher's page for people. What an earlier call left is gone on from where the server still has the
    same file, else dropped. Raises DataError for a server that refuses, answers with a web page or keeps cutting the
    connection (what came is kept), for a full disk, and for a wrong length or checksum (what came is removed).
    """
    target = folder / download.file
    about = f" (its publisher's page: {page})" if page else ""
    by_hand = f"open {download.url} in a browser{about}, put the file at {target}, and run this again"
    _check_scheme(download.url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = _Partial(target)
        _pull_patiently(download, partial, by_hand=by_hand, progress=progress, patience=patience)
        digest = check(partial.file, download, on_fault=partial.discard)
        partial.finish(target)
    except OSError as error:  # the net's own are dealt with in `_pull`
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    return digest


def partial_files(target: Path) -> tuple[Path, Path]:
    """Where the bytes of an unfinished `target` wait, and the note about them."""
    return target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.partial.json")


def check(file: Path, download: Download, *, on_fault: Callable[[], None]) -> str:
    """The file's SHA-256, in hex. Raises DataError, after `on_fault`, unless length and checksum are as stated."""
    size = file.stat().st_size
    if download.size_bytes is not None and size != download.size_bytes:
        on_fault()
        raise DataError(_wrong_size(download, size))
    sha256 = _hash(file, "sha256")
    kind, _, stated = download.checksum.partition(":")
    if stated and (found := sha256 if kind == "sha256" else _hash(file, kind)) != stated.lower():
        on_fault()
        raise DataError(
            f"{download.file} from {download.url} has {kind} {found}, but {stated.lower()} is stated; the file there "
            "has changed or was damaged on the way, so it is not used"
        )
    return sha256


def _wrong_size(download: Download, size: int) -> str:
    return (
        f"{download.file} from {download.url} has {size:,} bytes, but {download.size_bytes or 0:,} are stated; the "
        "file there is not the one the catalogue knows"
    )


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises DataError where the disk of `folder` has no room for `needed_bytes` more."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise DataError(
            f"{what} needs {needed_bytes / 1e9:,.1f} GB on the disk of {folder}, which has {free / 1e9:,.1f} GB left; "
            "make room, or give another folder with --data"
        )


def _hash(file: Path, kind: str) -> str:
    if kind not in ("md5", "sha256"):
        raise DataError(f"checksum kind {kind!r} is not known; use md5 or sha256")
    with file.open("rb") as opened:
        # It tells files apart; it guards no secret. Systems that forbid md5 for secrets then still allow it.
        return hashlib.file_digest(opened, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _pull_patiently(
    download: Download, partial: _Partial, *, by_hand: str, progress: Progress, patience: Patience
) -> None:
    """Try until the partial file is whole, or the server has brought nothing new for `patience.attempts` tries."""
    idle, furthest = 0, partial.size
    while True:
        try:
            _pull(download, partial, by_hand=by_hand, progress=progress, timeout_s=patience.timeout_s)
            return
        except _CutError as cut:
            idle = 1 if partial.size > furthest else idle + 1
            furthest = max(furthest, partial.size)
            if idle >= patience.attempts:
                kept = f"the {partial.size:,} bytes that came are kept: " if partial.size else ""
                raise DataError(
                    f"{download.url} cannot be fetched: {cut}, {idle} tries in a row; {kept}run this again to go on, "
                    f"or {by_hand}"
                ) from cut
            time.sleep(min(_MAX_PAUSE_S, max(cut.after_s, patience.pause_s * 2 ** (idle - 1))))


def _pull(download: Download, partial: _Partial, *, by_hand: str, progress: Progress, timeout_s: float) -> None:
    """One try: ask for the bytes that are missing and append them. Raises _CutError where another try may help."""
    origin, have = partial.origin(), partial.size
    # Without a validator a changed file shows only in a checksum.
    if origin is None or origin.url != download.url or not (origin.validator or download.checksum):
        origin, have = None, 0
    if origin and have and have == origin.total:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if origin and have and origin.validator:
        headers["If-Range"] = origin.validator
    with _open(download.url, headers, by_hand=by_hand, timeout_s=timeout_s, partial=partial) as response:
        if response.status == 206:
            total = _resumed_total(response, have, origin)
            if total is None:
                partial.discard()
                raise _CutError("the server sent another part of the file than was asked for")
        else:
            start = _first_bytes(response, download, by_hand)  # before the length: a web page has its own
            total = _whole_length(response, download)
            partial.begin(_Origin(url=download.url, validator=_validator(response.headers), total=total))
            have = _append(partial, start, 0)
        if total is not None:
            check_space(partial.file.parent, total - have, f"the rest of {download.file}")
        progress(have, total)
        while chunk := _receive(response):
            have = _append(partial, chunk, have)
            progress(have, total)
    if not have:
        raise _CutError("the server sent nothing")
    if total is not None and have < total:
        raise _CutError(f"the connection was cut after {have:,} of {total:,} bytes")


def _append(partial: _Partial, chunk: bytes, have: int) -> int:
    with partial.file.open("ab") as file:
        file.write(chunk)
    return have + len(chunk)


def _receive(response: HTTPResponse) -> bytes:
    """What has arrived, at most CHUNK_BYTES; nothing at the end."""
    try:
        return response.read1(CHUNK_BYTES)  # unlike read, it loses nothing that came before a cut
    except (OSError, HTTPException) as error:
        raise _CutError(f"the connection was cut ({_reason(error)})") from error


def _resumed_total(response: HTTPResponse, have: int, origin: _Origin | None) -> int | None:
    """The whole file's length, None where these are not the bytes that go on from `have`."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != have or origin is None:
        return None
    total = int(match[2])
    return total if origin.total in (None, total) else None


def _whole_length(response: HTTPResponse, download: Download) -> int | None:
    """What the server says the length is. Raises DataError where another one is stated."""
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    if None not in (total, download.size_bytes) and total != download.size_bytes:
        raise DataError(_wrong_size(download, total or 0))
    return total


def _first_bytes(response: HTTPResponse, download: Download, by_hand: str) -> bytes:
    """The first bytes of the body. Raises DataError for a web page, with which drives answer beyond their quota."""
    chunk = _receive(response)
    head = chunk[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    is_page = head.startswith((b"<!doctype html", b"<html"))
    if is_page or (head.startswith(b"<") and response.headers.get_content_type() == "text/html"):
        raise DataError(
            f"{download.url} answers with a web page instead of {download.file} (a login, a quota or a question to "
            f"confirm); {by_hand}"
        )
    return chunk


def _validator(headers: HTTPMessage) -> str:
    """By what If-Range can tell whether the file is still the same; weak ETags may not be used for that."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _open(url: str, headers: dict[str, str], *, by_hand: str, timeout_s: float, partial: _Partial) -> HTTPResponse:
    """The server's answer, 200 or 206. Raises _CutError where another try may help, DataError where none will."""
    try:
        response = urllib.request.build_opener(_Redirects()).open(request(url, headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # the partial file is no beginning of what lies there now
                partial.discard()
                raise _CutError("the file there is shorter than what had come of it") from error
            if error.code in _RETRIED:
                raise _CutError(
                    f"the server answers {error.code} {error.reason}", after_s=_retry_after(error)
                ) from error
            raise DataError(_refusal(url, error, by_hand)) from error
    except (OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise DataError(
                f"{url} cannot be trusted: {_reason(error)}; if the certificates of this machine are at fault, "
                "SSL_CERT_FILE can name a file with the right ones"
            ) from error
        raise _CutError(f"no connection ({_reason(error)})") from error
    assert isinstance(response, HTTPResponse)
    return response


def _refusal(url: str, error: urllib.error.HTTPError, by_hand: str) -> str:
    if error.code in _LOGIN:
        token = " and set HF_TOKEN to a token of that account" if _host(url) == TOKEN_HOST else ""
        return (
            f"{url} answers {error.code} {error.reason}: it wants a login, or its licence accepted first{token}; "
            f"{by_hand}"
        )
    return f"{url} answers {error.code} {error.reason}: the file is not to be had there; {by_hand}"


def _retry_after(error: urllib.error.HTTPError) -> float:
    asked = error.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    return str(inner or error) or type(error).__name__


def request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    """The request for `url`; the user's Hugging Face token goes with it to huggingface.co alone, and over https."""
    asked = urllib.request.Request(
        url, headers={"User-Agent": f"featcache/{__version__}", "Accept-Encoding": "identity", **headers}
    )
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and asked.type == "https" and _host(url) == TOKEN_HOST:
        asked.add_unredirected_header("Authorization", f"Bearer {token}")
    return asked


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


def _check_scheme(url: str) -> None:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url} is not fetched: only http and https addresses are")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https; each hop gets the headers of `request`, so no token leaks to another."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,  # noqa: ARG002 (the library's signature)
        msg: str,  # noqa: ARG002
        headers: HTTPMessage,  # noqa: ARG002
        newurl: str,
    ) -> urllib.request.Request | None:
        fp.close()
        _check_scheme(newurl)
        kept = {name: value for name, value in req.headers.items() if name in ("Range", "If-range")}
        return request(newurl, kept)
