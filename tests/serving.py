"""A real web server on this machine, as patient or as broken as a test asks."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What lies at one path, and how it is handed out."""

    content: bytes = b""
    etag: str = '"1"'
    last_modified: str = ""
    ranges: bool = True
    """Whether parts of it are to be had."""
    says_length: bool = True
    status: int = 200
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    """For each request to come: after how many bytes of the body its connection is cut."""
    failures: list[int] = field(default_factory=list)
    """For each request to come: the status it is refused with."""
    pause_s: float = 0.0
    """Before the body."""
    stall_after: int = 0
    stall_s: float = 0.0
    """After so many bytes of the file it sends nothing for so long, or until it is released."""
    released: threading.Event = field(default_factory=threading.Event)
    ignores_if_range: bool = False


@dataclass
class Site:
    """The server's pages by path, and what was asked of it."""

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """(path, headers by lower-case name) of each request."""

    def put(self, path: str, page: Page) -> str:
        """The address of the page, which is there from now on."""
        self.pages[path] = page
        return self.address + path

    def ranges(self) -> list[str]:
        """The Range of each request, empty where it asked for the whole."""
        return [headers.get("range", "") for _, headers in self.asked]


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A server for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.close_connection = True
            page = served.pages.get(self.path)
            if page is None:
                self.send_error(404)
            elif page.failures:
                self.send_response(page.failures.pop(0))
                self.send_header("Content-Length", "0")
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.end_headers()
            else:
                _answer(self, page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Site(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, page: Page) -> None:
    start, status = _start(handler, page), page.status
    if start is not None:
        status = 206 if start < len(page.content) else 416
    body = page.content[start or 0 :] if status != 416 else b""
    handler.send_response(status)
    if status == 206:
        handler.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
    if page.says_length:
        handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Content-Type", page.content_type)
    if page.etag:
        handler.send_header("ETag", page.etag)
    if page.last_modified:
        handler.send_header("Last-Modified", page.last_modified)
    for name, value in page.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    time.sleep(page.pause_s)
    with contextlib.suppress(OSError):  # the other side may have gone
        if page.stall_s:
            handler.wfile.write(body[: page.stall_after])
            body = body[page.stall_after :]
            page.released.wait(page.stall_s)
        handler.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)


def _start(handler: BaseHTTPRequestHandler, page: Page) -> int | None:
    """Where the part begins that is to be sent, None for the whole."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    wanted = handler.headers.get("If-Range", "")
    if not asked or not page.ranges or page.status != 200:
        return None
    if wanted and wanted not in (page.etag, page.last_modified) and not page.ignores_if_range:
        return None
    return int(asked[1])
