"""What the catalogue says of a data set beside how it is read: where it comes from, how big it is, how to get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file on the net, and where it goes."""

    url: str
    """Where it lies."""
    file: str
    """Its name below the data set's own folder."""
    checksum: str = ""
    """`md5:HEX` or `sha256:HEX`; empty where its publisher states none."""
    size_bytes: int | None = None
    """Its length, where known."""
    unpack: str | None = None
    """The folder, below the data set's own, that its members go to; None keeps the file as it is."""
    strip: str = ""
    """What is cut from the front of its members' paths; others are left out."""


@dataclass(frozen=True, kw_only=True)
class About:
    """Facts about a data set, for people."""

    title: str
    """Its name in the literature."""
    licence: str
    """Its terms in a few words, "not stated" where it states none."""
    link: str
    """Its authors' page."""
    num_classes: int
    """C of the whole data set."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Images of each split of the whole data set, as CoOp has it."""
    downloads: tuple[Download, ...] = ()
    """What `featcache datasets prepare` fetches."""
    by_hand: str = ""
    """What the user must fetch, and why it cannot be done for them; empty where nothing is left to do."""
