"""Who may read a file: its owner, its group, its mode, its ACL and its SELinux label.

An ACL stands here as the kernel hands it out (linux/posix_acl_xattr.h): a version, then entries of
a tag, rights and an id. Where there is one, the group digit of the mode is its mask, which bounds
what it gives to anybody but the owner and others (acl(5)).
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from struct import Struct

ACL = "system.posix_acl_access"
LABEL = "security.selinux"

ABSENT = {errno.ENODATA, errno.ENOTSUP}
"""What is answered for an attribute that a file does not have, or no file there can have."""

VERSION = 4
"""Bytes before the first entry."""

ENTRY = Struct("<HHI")

OWNER, GROUP, MASK, OTHERS = 0x01, 0x04, 0x10, 0x20
"""Tags of the entries that speak of nobody by name."""


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of one file. No ACL: the mode says it all. No label: there is no SELinux."""

    uid: int
    gid: int
    mode: int
    acl: bytes | None
    label: bytes | None

    @classmethod
    def of(cls, descriptor: int) -> "Rights":
        """Return the rights of an open file."""
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        acl, label = _attribute(descriptor, ACL), _attribute(descriptor, LABEL)
        return cls(status.st_uid, status.st_gid, mode, acl, label)

    def under(self, mode: int) -> "Rights":
        """Return them with a mode, of which an ACL gives nobody more than the group's share."""
        owner, group, others = mode >> 6 & 7, mode >> 3 & 7, mode & 7
        classes = {OWNER: owner, GROUP: group, MASK: group, OTHERS: others}
        return replace(self, mode=mode, acl=_changed(self.acl, classes))

    def closed_to_others(self) -> "Rights":
        """Return them without those of whoever is neither the owner, nor in a group, nor named."""
        return replace(self, mode=self.mode & 0o770, acl=_changed(self.acl, {OTHERS: 0}))


def _changed(acl: bytes | None, classes: Mapping[int, int]) -> bytes | None:
    if acl is None:
        return None
    entries = ENTRY.iter_unpack(acl[VERSION:])
    changed = (ENTRY.pack(tag, classes.get(tag, given), who) for tag, given, who in entries)
    return acl[:VERSION] + b"".join(changed)


def _attribute(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
