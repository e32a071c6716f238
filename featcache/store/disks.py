"""Is a folder on a disk of this machine, or on one that other machines write to as well?"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

_OWN = re.compile(
    r"ext[234]|xfs|btrfs|zfs|f2fs|jfs|reiserfs|bcachefs|tmpfs|ramfs|overlay|aufs|rootfs|squashfs|vfat|exfat|ntfs3?|fuseblk"
)
"""Kinds of file system on which the system's own locks can be trusted."""


def is_network_disk(folder: Path) -> bool:
    """Whether the system's locks may mean nothing there: NFS, Lustre, a bucket mounted as a folder, ..

    `FEATCACHE_NETWORK_DISK`, 1 or 0, says so outright. Where the system does not tell (only Linux does), no.
    """
    said = os.environ.get("FEATCACHE_NETWORK_DISK")
    if said is not None:
        return said not in ("", "0")
    kind = _kind(str(folder.resolve()))
    return bool(kind) and not _OWN.fullmatch(kind)


@cache
def _kind(folder: str) -> str:
    """The kind of file system a folder is on; empty where the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        mounted = fields[4].replace("\\040", " ")
        inside = folder == mounted or folder.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= len(best):
            best, kind = mounted, fields[fields.index("-") + 1]
    return kind
