"""Downloads into the cache folder."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

CONNECT_SECONDS = 5


def download(
    urls: Iterable[str], folder: str, cache: Path, fetch: Callable[[Path], object]
) -> None:
    """Make `cache/folder` appear at once and complete; `fetch(root)` makes `root/folder`.

    Several processes may do this at a time. Raises OSError, and within seconds when none of the
    `urls` answers: torchvision itself waits for minutes.
    """
    urls = tuple(urls)
    if not any(_answers(url) for url in urls):
        raise ConnectionError(f"no answer from {' or '.join(urls)}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as scratch:
        fetch(Path(scratch))
        try:
            (Path(scratch) / folder).rename(cache / folder)
        except OSError:
            # Another process was faster, and its folder is as complete as this one.
            if not (cache / folder).is_dir():
                raise


def _answers(url: str) -> bool:
    # Here, as few who know of a dataset download it.
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=CONNECT_SECONDS):
            return True
    except HTTPError:
        return True
    except OSError:
        return False
