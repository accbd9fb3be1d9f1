"""Locations: how a storage is named, in one form for messages, records and workers."""

import os
import re
from urllib.parse import parse_qsl, unquote, urlsplit

SECRET_OPTIONS = re.compile(r"key|secret|token|password|credential|^sig$", re.IGNORECASE)
KEYS_AS_USERS = {"s3", "s3a", "gs", "gcs"}
"""Where the user in `scheme://user@bucket` is an access key."""


def normal_location(location: str) -> str:
    """An absolute path, of a folder or a `file://` URI, or the URI of an object store as it is.

    Raises ValueError for what names no place, and for credentials, which it does not repeat.
    """
    if not location:
        raise ValueError("storage is empty; give a folder or a URI such as s3://bucket/folder")
    if "\0" in location or not _is_unicode(location):
        raise ValueError(f"storage {location!a} is not Unicode text; choose another one")
    if re.match("file:", location, re.IGNORECASE):
        return _file_path(location)
    if "://" in location:
        _refuse_credentials(location)
        return location
    # Workers have working folders of their own.
    return os.path.abspath(os.path.expanduser(location))


def is_relative(location: str) -> bool:
    """Whether a location is a path that depends on the current folder."""
    named = "://" in location or re.match("file:", location, re.IGNORECASE)
    return not named and not os.path.isabs(os.path.expanduser(location))


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _file_path(uri: str) -> str:
    host, slash, path = uri[len("file:") :].removeprefix("//").partition("/")
    if host not in ("", "localhost") or not slash or not uri[5:].startswith("/"):
        raise ValueError(f"storage {uri!r} names no folder; write file:///folder, or /folder alone")
    if "#" in path or "?" in path:
        raise ValueError(
            f"storage {uri!r} has a # or ? in it, which end the path of a URI; write %23 or %3F, "
            "or give the folder's path alone"
        )
    return os.path.abspath(f"/{unquote(path)}")


def _refuse_credentials(uri: str) -> None:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ValueError(f"storage is no usable URI ({error})") from None
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    in_user = parts.password is not None or (parts.scheme in KEYS_AS_USERS and parts.username)
    if in_user or any(map(SECRET_OPTIONS.search, names)):
        raise ValueError(
            f"storage {parts.scheme}://… holds credentials, and a storage is recorded with its "
            "results; put them in the environment, as in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for s3, and give the URI without them"
        )
    if parts.fragment or "#" in uri:
        raise ValueError(f"storage {uri!r} has a # in it, which ends the path of a URI; write %23")
