"""Object stores: from a location, and the environment's credentials, to one that can be asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import Request, urlopen

from obstore.exceptions import BaseError
from obstore.store import MemoryStore, S3Store, from_url

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

# What is tried again here is tried within seconds: `Patience` has the minutes.
RETRIES: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=50),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}
CLIENT: ClientConfig = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(minutes=2)}

S3_SCHEMES = ("s3", "s3a")
SCHEMES = (*S3_SCHEMES, "gs", "gcs", "az", "abfs", "abfss", "memory")
S3_OPTIONS = {"region", "scheme", "endpoint_override", "force_virtual_addressing",
              "tls_verify_certificates"}  # fmt: skip
WITHOUT_EFFECT = {"allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open",
                  "smart_defaults", "check_directory_existence_before_creation"}  # fmt: skip
"""Options of earlier versions that decide nothing here."""


def open_object_store(location: str) -> ObjectStore:
    """The store below a location such as `s3://bucket/folder?region=eu-west-1`.

    Raises ValueError for what names none.
    """
    parts = urlsplit(location)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{parts.scheme}:// is none of {', '.join(f'{s}://' for s in SCHEMES)}")
    if parts.scheme == "memory":
        return MemoryStore()
    known = S3_OPTIONS if parts.scheme in S3_SCHEMES else set()
    for name in options.keys() - known - WITHOUT_EFFECT:
        raise ValueError(f"it has no option {name!r}; there are {', '.join(sorted(known)) or '-'}")
    try:
        if parts.scheme in S3_SCHEMES:
            return _s3(parts.netloc, unquote(parts.path).strip("/"), options)
        plain = f"{parts.scheme.replace('gcs', 'gs')}://{parts.netloc}{parts.path}"
        return from_url(plain, client_options=CLIENT, retry_config=RETRIES)
    except BaseError as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _s3(bucket: str, folder: str, options: Mapping[str, str]) -> ObjectStore:
    if not bucket:
        raise ValueError("it names no bucket")
    endpoint = options.get("endpoint_override") or _environment("ENDPOINT_URL_S3", "ENDPOINT_URL")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    profile = _profile()
    config: Any = {
        name: profile[f"aws_{name}"]
        for name in ("access_key_id", "secret_access_key", "session_token")
        if f"aws_{name}" in profile and not _environment("ACCESS_KEY_ID")
    }
    found = options.get("region") or (None if endpoint else _region_of(bucket))
    config["region"] = (
        found or _environment("REGION", "DEFAULT_REGION") or profile.get("region") or "us-east-1"
    )
    virtual = options.get("force_virtual_addressing", "false").lower() in ("true", "1")
    if endpoint:
        config |= {"endpoint": endpoint, "virtual_hosted_style_request": virtual}
    client: ClientConfig = {
        **CLIENT,
        "allow_http": bool(endpoint) and endpoint.startswith("http:"),
        "allow_invalid_certificates": options.get("tls_verify_certificates") == "false",
    }
    return S3Store(
        bucket, prefix=folder or None, config=config, client_options=client, retry_config=RETRIES
    )


def _environment(*names: str) -> str | None:
    """The first of the variables AWS_… that is set."""
    return next((os.environ[f"AWS_{n}"] for n in names if os.environ.get(f"AWS_{n}")), None)


def _profile() -> dict[str, str]:
    """What AWS's own files say of the profile in use."""
    name = _environment("PROFILE", "DEFAULT_PROFILE") or "default"
    credentials = _environment("SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    config = _environment("CONFIG_FILE") or "~/.aws/config"
    found: dict[str, str] = {}
    for file, section in ((config, f"profile {name}"), (config, name), (credentials, name)):
        read = ConfigParser(interpolation=None, default_section="")
        try:
            read.read(Path(file).expanduser())
        except (OSError, ConfigError, UnicodeError) as error:
            raise ValueError(f"{file} cannot be read ({type(error).__name__})") from None
        found |= dict(read[section]) if section in read else {}
    return found


@cache
def _region_of(bucket: str) -> str | None:
    """Where AWS has a bucket; None when it does not say."""
    asked = Request(f"https://s3.amazonaws.com/{bucket}", method="HEAD")
    try:
        with urlopen(asked, timeout=5) as answer:
            return answer.headers.get("x-amz-bucket-region")
    except HTTPError as refused:  # it says so to those whom it does not let in, too
        return refused.headers.get("x-amz-bucket-region")
    except OSError:
        return None
