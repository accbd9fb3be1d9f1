"""Whatever lies in a folder: the right data, or one message with its place; nothing in silence."""

import hashlib
import io
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from one_message import outcome
from PIL import Image
from pydantic import TypeAdapter

from trainables.data import (
    DataRoots,
    Dataset,
    DatasetConfig,
    DatasetInfo,
    describe_dataset,
    load_dataset,
)
from trainables.data.idx import read_idx

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

LOSSLESS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP"}


@dataclass(frozen=True)
class Drawn:
    """A file of a folder, and the pixels [height, width, 3] that it shows; None for no image."""

    path: str
    content: bytes
    shown: np.ndarray | None


def encoded(image: Image.Image, suffix: str, orientation: int) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    if suffix in (".png", ".tif", ".webp") and orientation != 1:
        options["exif"] = exif.tobytes()
    image.save(file, LOSSLESS[suffix], **options)
    return file.getvalue()


@st.composite
def pictures(draw: st.DrawFn, suffix: str) -> tuple[bytes, np.ndarray]:
    """An encoded image of 4x6 and what it shows as RGB."""
    seed = draw(st.integers(0, 10**6))
    pixels = np.random.RandomState(seed).randint(0, 256, (4, 6, 3), dtype=np.uint8)
    mode = draw(st.sampled_from(["RGB", "RGB", "RGB", "L"]))
    image = Image.fromarray(pixels).convert(mode)
    shown = np.asarray(image.convert("RGB"))
    upside_down = suffix in (".png", ".tif", ".webp") and draw(st.booleans())
    content = encoded(image, suffix, 3 if upside_down else 1)
    return content, shown[::-1, ::-1] if upside_down else shown


@st.composite
def folders(draw: st.DrawFn) -> list[Drawn]:
    """Splits, classes and files, most of them as they should be."""
    found: dict[str, Drawn] = {}
    for split in ("train", draw(st.sampled_from(["test", "test", "val"]))):
        for category in draw(st.sets(st.sampled_from(["a", "b", "ä c"]), min_size=1)):
            for number in range(draw(st.integers(0, 4))):
                kind = draw(st.sampled_from([""] * 9 + ["deep/", ".hidden/", "no image", "cut"]))
                suffix = draw(st.sampled_from(list(LOSSLESS)))
                content, shown = draw(pictures(suffix))
                place = f"{split}/{category}/"
                if kind == "no image":
                    one = Drawn(f"{place}{number}.txt", b"text", None)
                elif kind == "cut":
                    one = Drawn(f"{place}{number}{suffix}", content[: len(content) // 2], None)
                else:
                    upper = draw(st.booleans())
                    name = f"{place}{kind}{number}{suffix.upper() if upper else suffix}"
                    one = Drawn(name, content, None if kind == ".hidden/" else shown)
                found[one.path] = one
    return list(found.values())


def expected(drawn: list[Drawn], split: str) -> dict[str, np.ndarray]:
    return {
        each.path: each.shown
        for each in sorted(drawn, key=lambda each: (each.path.split("/")[1], each.path))
        if each.path.startswith(split) and each.shown is not None
    }


@QUICK
@given(folders())
def test_a_folder_of_images(drawn: list[Drawn]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "here"
        folder.mkdir()
        for each in drawn:
            path = folder / each.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each.content)
        roots = DataRoots((Path(place),), Path(place) / "cache")
        config = TypeAdapter(DatasetConfig).validate_python(
            {"name": "image_folder", "path": "here", "overlap": 1000}
        )
        data = outcome(lambda: load_dataset(config, roots), folder)
        event("refused" if data is None else "read")
        if data is None:
            return
        test = "test" if any(each.path.startswith("test") for each in drawn) else "val"
        train, tests = expected(drawn, "train"), expected(drawn, test)
        gray = all(
            np.array_equal(shown, shown[..., :1].repeat(3, -1))
            for shown in (*train.values(), *tests.values())
        )
        for split, right in ((data.train, train), (data.test, tests)):
            channels = 1 if gray and split.images.shape[1] == 1 else 3
            stacked = np.stack(list(right.values())).transpose(0, 3, 1, 2)[:, :channels]
            assert np.array_equal(split.images, stacked)
            names = [data.names[label] for label in split.labels]
            assert names == [path.split("/")[1] for path in right]
        said = "\n".join(data.notes)
        for each in drawn:
            if each.shown is None:  # not an image, or hidden: a cut one is an error
                reason = ".txt" if each.path.endswith(".txt") else "hidden"
                assert reason in said
        outcome(lambda: described(describe_dataset(config, roots), data), config.name)


def described(info: DatasetInfo, data: Dataset) -> DatasetInfo:
    """What a description says must be so."""
    assert (info.classes, info.train_examples) == (data.classes, len(data.train))
    assert info.shape == data.train.images.shape[1:]
    return info


@st.composite
def rows(draw: st.DrawFn, labels: st.SearchStrategy[int]) -> list[tuple[bytes | None, int | None]]:
    found: list[tuple[bytes | None, int | None]] = []
    for _ in range(draw(st.integers(0, 6))):
        content, _ = draw(pictures(draw(st.sampled_from(list(LOSSLESS)))))
        odd = draw(st.sampled_from([""] * 60 + ["no label", "no image", "no picture", "cut"]))
        label = None if odd == "no label" else draw(labels)
        image = {"no image": None, "no picture": b"x" * 50, "cut": content[:30]}.get(odd, content)
        found.append((image, label))
    return found


LABELS = [
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(1, 3),
    st.sampled_from([0, 7]),
    st.sampled_from([0, 2**40]),
    st.integers(-1, 1),
]


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[tuple[bytes | None, int | None]]]:
    labels = draw(st.sampled_from(LABELS))
    names = ["train-0", "train-1", "train-2.parquet/part-0", "test-0", "test-1"]
    return {name: draw(rows(labels)) for name in draw(st.sets(st.sampled_from(names)))}


@QUICK
@given(tables(), st.booleans())
def test_parquet_tables(files: dict[str, list], relabel: bool) -> None:
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "here"
        folder.mkdir()
        for name, found in files.items():
            path = folder / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = {"image": [i for i, _ in found], "label": [label for _, label in found]}
            pq.write_table(pa.table(columns, schema), path)
        roots = DataRoots((Path(place),), Path(place) / "cache")
        config = TypeAdapter(DatasetConfig).validate_python(
            {"name": "parquet", "path": "here", "overlap": 1000, "relabel": relabel}
        )
        data = outcome(lambda: load_dataset(config, roots), folder)
        event("refused" if data is None else "read")
        if data is None:
            return
        for split, kind in ((data.train, "train"), (data.test, "test")):
            right = [row for name in sorted(files) if name.startswith(kind) for row in files[name]]
            assert all(image is not None and label is not None for image, label in right)
            assert len(split) == len(right)
            given_labels = [label for _, label in right]
            if relabel:
                assert [int(data.names[label]) for label in split.labels] == given_labels
            else:
                assert split.labels.tolist() == given_labels
        assert set(data.train.labels.tolist()) == set(range(data.classes))
        outcome(lambda: described(describe_dataset(config, roots), data), config.name)


@QUICK
@given(st.data())
def test_an_idx_file(data: st.DataObject) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
    content = bytearray(struct.pack(">4B3I", 0, 0, 8, 3, 5, 3, 4) + pixels.tobytes())
    md5 = hashlib.md5(content).hexdigest()
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    content += data.draw(st.binary(max_size=3))
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "images-idx3-ubyte"
        file.write_bytes(content)
        found = outcome(lambda: read_idx(file, (5, 3, 4), md5), file)
        assert found is None or np.array_equal(found, pixels)


TREE = ("wnids.txt", "val/val_annotations.txt")


@QUICK
@given(st.sampled_from(TREE), st.floats(0, 1), st.booleans())
def test_the_lists_of_tiny_imagenet(damaged: str, place: float, cut: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "tiny-imagenet-200"
        image = io.BytesIO()
        Image.new("RGB", (64, 64)).save(image, "JPEG")
        names = ("n01", "n02", "n03")
        rows = [f"val_{n}.JPEG\t{names[n % 3]}\t0\t0\t62\t62" for n in range(6)]
        for name in names:
            (folder / f"train/{name}/images").mkdir(parents=True)
            (folder / f"train/{name}/images/{name}_0.JPEG").write_bytes(image.getvalue())
        (folder / "val/images").mkdir(parents=True)
        for number in range(6):
            (folder / f"val/images/val_{number}.JPEG").write_bytes(image.getvalue())
        (folder / TREE[0]).write_text("\n".join(names) + "\n")
        (folder / TREE[1]).write_text("\n".join(rows) + "\n")
        content = (folder / damaged).read_bytes()
        at = int(place * (len(content) - 1))
        (folder / damaged).write_bytes(content[:at] + (b"" if cut else b"\xff" + content[at + 1 :]))
        config = TypeAdapter(DatasetConfig).validate_python({"name": "tiny_imagenet"})
        roots = DataRoots((Path(root),), Path(root) / "cache")
        data = outcome(lambda: load_dataset(config, roots), folder)
        if data is None:
            return
        labels = data.test.labels.tolist()
        assert labels == [0, 1, 2, 0, 1, 2][: len(labels)]
        if len(labels) < 6:  # another content is told, and has a key of its own
            with pytest.raises(ValueError, match="all 3 training images"):
                describe_dataset(config, roots)
