"""Secrets: what looks like one is refused in a sweep file, and is never repeated or recorded."""

import re
from collections.abc import Iterable
from itertools import pairwise
from urllib.parse import parse_qsl, urlsplit

SHAPES = {
    "a W&B API key": r"\A(?:local-)?[0-9a-f]{40}\Z|wandb_v1_[A-Za-z0-9_-]{20}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30}|github_pat_[A-Za-z0-9_]{22})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20}",
    "a Slack token": r"\bxox[a-z]-[A-Za-z0-9-]{10}|hooks\.slack\.com/services/\w",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30}",
    "an API key": r"\b(?:sk-(?:[a-z0-9]+-){0,2}[A-Za-z0-9]{20}|AIza[0-9A-Za-z_-]{35})",
    "a signed token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10}",
    "a private key or certificate": r"-----BEGIN [A-Z0-9 ]+-----",
    "a URL with a password": r"://[^\s/:@]*:[^\s/@]+@",
}
"""What known secrets look like. A bare commit hash cannot be told from an old W&B key; inside of
a longer text, such as a path, 40 hexadecimal digits are a hash."""

_SHAPES = {kind: re.compile(pattern) for kind, pattern in SHAPES.items()}

NOUNS = {"apikey", "credential", "credentials", "passphrase", "passwd", "password", "pwd",
         "secret", "secrets", "token", "tokens"}  # fmt: skip
KEYS_TO = {"access", "account", "api", "auth", "private", "secret", "wandb"}
"""A key of a mapping names a secret when it ends in a noun, or in one of these and `key`."""

ADVICE = (
    "a sweep is recorded with its results, so secrets belong in the environment (WANDB_API_KEY, "
    "HF_TOKEN, AWS_SECRET_ACCESS_KEY, …)"
)

RANDOM_LENGTH = 24
"""Shorter runs of letters and digits are taken to be names."""
RANDOM_CHANGES = 0.45
"""Random letters and digits change their kind (lower, upper, digit) at 62 % of the places, words
and CamelCase at up to 30 %."""

REDACTED = "[redacted]"


def secret_value(value: str) -> str | None:
    """What kind of secret `value` looks like, such as "a W&B API key"; None for plain text."""
    text = value.strip()
    kind = next((kind for kind, shape in _SHAPES.items() if shape.search(text)), None)
    if kind is None and _has_secret_parameter(text):
        return "a URL with a secret"
    if kind is None and any(_is_random(run) for run in _runs(text)):
        return "a secret (long and random)"
    return kind


def secret_key(key: str) -> bool:
    """Whether a mapping's key, such as `api_key` or `hf-token`, names a secret."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", key).lower()
    *before, last = re.split(r"[^a-z0-9]+", words.strip())
    return last in NOUNS or (last == "key" and before[-1:] != [] and before[-1] in KEYS_TO)


def redacted(arguments: Iterable[str]) -> list[str]:
    """A command's arguments, without those that look like secrets or follow an option for one."""
    shown: list[str] = []
    hidden = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if hidden or secret_value(argument):
            shown.append(REDACTED)
        elif equals and (secret_key(option) or secret_value(value)):
            shown.append(f"{option}={REDACTED}")
        else:
            shown.append(argument)
        hidden = not equals and argument.startswith("--") and secret_key(argument)
    return shown


def _has_secret_parameter(text: str) -> bool:
    if "://" not in text or "?" not in text:
        return False
    try:
        return any(secret_key(name) for name, _ in parse_qsl(urlsplit(text).query))
    except ValueError:
        return False


def _runs(text: str) -> list[str]:
    # An AWS secret is 40 characters with / and +; elsewhere a / separates the parts of a path.
    return [
        *re.findall(rf"[A-Za-z0-9]{{{RANDOM_LENGTH},}}", text),
        *re.findall(r"(?<![A-Za-z0-9+/.])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=.])", text),
    ]


def _is_random(run: str) -> bool:
    kinds = [_kind(character) for character in run]
    if not {"lower", "upper", "digit"} <= set(kinds):
        return False
    changes = [one != other for one, other in pairwise(kinds) if one and other]
    return sum(changes) >= RANDOM_CHANGES * len(changes)


def _kind(character: str) -> str | None:
    if character.isdigit():
        return "digit"
    if not character.isalpha():
        return None
    return "upper" if character.isupper() else "lower"
