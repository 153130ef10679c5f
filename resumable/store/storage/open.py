"""Open the storage at a path or an fsspec URL, with retries. Independent of runs and checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resumable.errors import ConfigError
from resumable.store.storage.protocol import Storage, reported
from resumable.store.storage.retry import PatientStorage
from resumable.utils.location import Secrets, location, scrubbed, showable

_LOCAL = re.compile(r"(file|local)://")
_HAS_FOLDER_DESCRIPTORS = os.open in os.supports_dir_fd  # not on Windows
_CACHES = ("simplecache", "filecache", "blockcache")
# Named directly, not as an extra of ours: it is right however this package was installed.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
}


def open_storage(url: str, options: Mapping[str, Any] | None = None, *, probe: bool = True) -> PatientStorage:
    """Open the storage at a path or any fsspec URL, with retries. Writes nothing.

    Args:
        url: A path, or a URL for fsspec.
        options: Passed to the filesystem of fsspec.
        probe: Whether it may try out if create is exclusive. Without, an uncertain one counts as not exclusive.

    Raises:
        ConfigError: The protocol is unknown, its package is missing, or it does not accept `options`.
    """
    path = local_path(url)
    if path is not None:
        return PatientStorage(_open_folder(path))
    return PatientStorage(_open_remote(url, dict(options or {}), probe=probe))


def _open_folder(path: Path) -> Storage:
    if _HAS_FOLDER_DESCRIPTORS:
        from resumable.store.storage.local import LocalStorage

        return LocalStorage(path)
    from resumable.store.storage.plain_folder import PlainFolder

    return PlainFolder(path)


def local_path(url: str) -> Path | None:
    """Return the path that a URL on this machine names; None for any other URL."""
    if _LOCAL.match(url):
        return Path(_LOCAL.sub("", url, count=1))
    return Path(os.path.expanduser(url)) if "://" not in url and "::" not in url else None


def _open_remote(url: str, options: dict[str, Any], *, probe: bool) -> Storage:
    from fsspec import get_filesystem_class  # type: ignore[import-untyped]
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    from fsspec.utils import get_protocol  # type: ignore[import-untyped]

    from resumable.store.storage.fsspec_storage import FsspecStorage
    from resumable.store.storage.library_random import separate_random_streams

    shown = location(url)
    protocol = re.split(r"://|::", url, maxsplit=1)[0]
    if protocol in _CACHES:
        raise ConfigError(f"{shown}: expected a storage, found a cache: {protocol}", "name the storage behind it")
    hide = Secrets(url, options)
    with reported("open", shown, Exception, hide=hide):
        try:
            for part in url.split("::"):
                get_filesystem_class(get_protocol(part))  # imported before the first request, which may fail
            separate_random_streams()
            file_system, root = url_to_fs(url, **options, skip_instance_cache=True)
        except (ImportError, ValueError, TypeError) as error:
            missing = isinstance(error, ImportError)
            hint = _install_hint(protocol) if missing else "check the URL and `storage_options`"
            raise ConfigError(f"{shown}: {scrubbed(str(error), hide)}", hint) from showable(error, hide)
    return FsspecStorage(file_system, root, shown, probe=probe, hide=hide)


def _install_hint(protocol: str) -> str | None:
    return f"pip install {_PACKAGES[protocol]}" if protocol in _PACKAGES else None
