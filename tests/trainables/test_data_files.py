"""Files as they lie where people work: read right, or refused by name; nothing in silence."""

import gzip
import hashlib
import io
import json
import os
import resource
import shutil
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_message import outcome
from PIL import Image
from pydantic import TypeAdapter

from trainables.data import (
    DataRoots,
    Dataset,
    DatasetConfig,
    DatasetInfo,
    DatasetNotFound,
    DatasetOptions,
    data_roots,
    describe_dataset,
    identity,
    load_dataset,
)
from trainables.data.decoding import Encoded, _Drawing
from trainables.data.fingerprint import stamps, write_atomically
from trainables.data.idx import read_idx
from trainables.data.parquet import ParquetFile, table_images

SIDE = 6


def config(name: str, **options: object) -> DatasetOptions:
    return TypeAdapter(DatasetConfig).validate_python({"name": name, "path": "here", **options})


@pytest.fixture
def roots(tmp_path: Path) -> DataRoots:
    (tmp_path / "here").mkdir()
    return DataRoots((tmp_path,), tmp_path / "cache")


@pytest.fixture
def here(roots: DataRoots) -> Path:
    return roots.candidates[0] / "here"


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape or (SIDE, SIDE, 3), dtype=np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def put_images(folder: Path, categories: tuple[str, ...] = ("a", "b"), count: int = 3) -> None:
    """Different images, in files that are read without a remark."""
    seed = 0
    for split in ("train", "test"):
        for category in categories:
            for number in range(count):
                put(folder / split / category / f"{number}.png", encode(picture(seed)))
                seed += 1


def table(path: Path, images: list[bytes | None], labels: list[int | None], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    pq.write_table(pa.table({"image": images, "label": labels}, schema), path, **options)


def put_tables(folder: Path, labels: list[int], tests: list[int] | None = None) -> None:
    tests = labels if tests is None else tests
    table(folder / "train-0.parquet", [encode(picture(i)) for i in range(len(labels))], [*labels])
    first = len(labels)
    images: list[bytes | None] = [encode(picture(first + i)) for i in range(len(tests))]
    table(folder / "test-0.parquet", images, [*tests])


def both(roots: DataRoots, name: str, **options: object) -> tuple[DatasetInfo, Dataset]:
    choice = config(name, **options)
    return describe_dataset(choice, roots), load_dataset(choice, roots)


def refused(roots: DataRoots, name: str, message: str, **options: object) -> None:
    for use in (describe_dataset, load_dataset):
        with pytest.raises(ValueError, match=message):
            use(config(name, **options), roots)


def notes(info: DatasetInfo) -> str:
    assert info.contents
    return "\n".join(info.contents.notes)


class TestListing:
    @pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".cache"])
    def test_hidden_folders_are_no_classes(self, roots: DataRoots, here: Path, name: str) -> None:
        put_images(here)
        put(here / "train" / name / "0-checkpoint.png", encode(picture(90)))
        info, data = both(roots, "image_folder")
        assert (info.classes, data.classes, info.train_examples) == (2, 2, 6)
        assert f"left out: train/{name} (hidden, or a system's)" in notes(info)
        assert data.notes == info.contents.notes  # type: ignore[union-attr]

    @pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._0.png"])
    def test_hidden_files_are_no_images(self, roots: DataRoots, here: Path, name: str) -> None:
        put_images(here)
        put(here / "train/a" / name, b"not an image")
        info, _ = both(roots, "image_folder")
        assert info.train_examples == 6
        assert f"left out: train/a/{name} (hidden, or a system's)" in notes(info)

    def test_what_is_no_image_is_counted_by_its_kind(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        for number in range(3):
            put(here / f"train/a/{number}.txt", b"")
        put(here / "train/a/README", b"")
        put(here / "train/labels.csv", b"")
        info, _ = both(roots, "image_folder")
        assert "left out: train/a/0.txt and 2 more (.txt, no image)" in notes(info)
        assert "left out: train/a/README (without a suffix, no image)" in notes(info)
        assert "left out: train/labels.csv (in no folder of a class)" in notes(info)

    def test_every_format_and_depth_is_read(self, roots: DataRoots, here: Path) -> None:
        kinds = {"webp": {"lossless": True}, "bmp": {}, "tif": {}, "TIFF": {}, "gif": {}, "ppm": {}}
        put_images(here)
        for number, (suffix, options) in enumerate(kinds.items()):
            pixels = picture(100 + number)
            if suffix == "gif":  # has a palette
                pixels = np.array([[0, 255], [255, 0]], np.uint8).repeat(3, 0).repeat(3, 1)
            kind = {"tif": "TIFF"}.get(suffix, suffix)
            put(here / f"train/c/deep/er/{number}.{suffix}", encode(pixels, kind, **options))
            put(here / f"test/c/{number}.{suffix}", encode(255 - pixels, kind, **options))
        info, data = both(roots, "image_folder")
        assert (info.classes, info.train_examples) == (3, 6 + len(kinds))
        found = data.train.images[data.train.labels == 2]
        assert np.array_equal(found[0], picture(100).transpose(2, 0, 1))
        assert np.array_equal(found[2], picture(102).transpose(2, 0, 1))

    def test_a_test_folder_without_images_is_not_passed_over(
        self, roots: DataRoots, here: Path
    ) -> None:
        put_images(here)
        shutil.move(here / "test", here / "val")
        put(here / "test/a/0.txt", b"")
        refused(roots, "image_folder", rf"{here}/test has no images")

    def test_of_two_test_folders_one_is_told(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        shutil.copytree(here / "test", here / "val")
        assert "left out: val (the test images are those in test/)" in notes(
            both(roots, "image_folder")[0]
        )

    def test_an_empty_class_is_told(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        (here / "train/empty").mkdir()
        info, _ = both(roots, "image_folder")
        assert info.classes == 2
        assert "left out: train/empty (an empty class)" in notes(info)

    def test_links_are_followed_and_circles_refused(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        put(here.parent / "elsewhere/7.png", encode(picture(70)))
        (here / "train/a/more").symlink_to(here.parent / "elsewhere")
        assert both(roots, "image_folder")[0].train_examples == 7
        (here / "train/b/circle").symlink_to(here / "train/b")
        refused(roots, "image_folder", "train/b/circle is a link to a folder that it is in")

    def test_a_file_that_cannot_be_opened_is_named(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        (here / "train/a/gone.png").symlink_to(here / "nowhere.png")
        refused(roots, "image_folder", r"train/a/gone\.png cannot be read: No such file")

    def test_the_identity_of_plain_folders_is_as_ever(self, roots: DataRoots, here: Path) -> None:
        put_images(here, count=1)
        names = ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png")
        files = [(name, hashlib.sha256((here / name).read_bytes()).hexdigest()) for name in names]
        whole = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        assert both(roots, "image_folder")[0].fingerprint == whole

    def test_a_class_that_is_a_link_to_nothing_is_refused(
        self, roots: DataRoots, here: Path
    ) -> None:
        put_images(here)
        for split in ("train", "test"):
            (here / split / "c").symlink_to(here / "unmounted")
        refused(roots, "image_folder", "train/c is a link to nothing")

    def test_a_pipe_is_told_and_not_waited_for(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        os.mkfifo(here / "train/a/9.png")
        info, _ = both(roots, "image_folder")
        assert "left out: train/a/9.png (neither a file nor a folder)" in notes(info)

    def test_names_are_on_one_line(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        put(here / "train/a/\n\x1b[31m.txt", b"")
        assert r"left out: train/a/\n\x1b[31m.txt" in notes(both(roots, "image_folder")[0])
        put(here / "train/a/\n.png", b"")
        refused(roots, "image_folder", r"train/a/\\n\.png is not an image")

    def test_images_of_several_pictures_by_their_own_suffix(
        self, roots: DataRoots, here: Path
    ) -> None:
        put_images(here)
        other = Image.fromarray(picture(41))
        stereo = encode(picture(40), "MPO", save_all=True, append_images=[other])
        put(here / "train/a/stereo.mpo", stereo)
        info, _ = both(roots, "image_folder")
        assert (info.train_examples, notes(info)) == (7, "")

    def test_labels_that_change_places_change_the_fingerprint(
        self, roots: DataRoots, here: Path
    ) -> None:
        """Also when neither sizes nor times do."""
        put_images(here)
        for category, seed in (("a", 30), ("b", 31)):
            put(here / f"train/{category}/s.bmp", encode(picture(seed), "BMP"))
            os.utime(here / f"train/{category}/s.bmp", ns=(10**18, 10**18))
        before = both(roots, "image_folder")[0].fingerprint
        (here / "train/a/s.bmp").rename(here / "s.bmp")
        (here / "train/b/s.bmp").rename(here / "train/a/s.bmp")
        (here / "s.bmp").rename(here / "train/b/s.bmp")
        assert both(roots, "image_folder")[0].fingerprint != before


class TestModes:
    def test_one_gray_image_makes_nothing_gray(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        before = both(roots, "image_folder")[0].fingerprint
        gray = Image.fromarray(picture(0)).convert("L")
        put(here / "train/a/0.png", encode(gray))
        info, data = both(roots, "image_folder")
        assert info.shape == (3, SIDE, SIDE)
        assert np.array_equal(data.train.images[0], np.stack([np.asarray(gray)] * 3))
        assert np.array_equal(data.train.images[1], picture(1).transpose(2, 0, 1))
        assert "1 of 12 images are gray, turned into RGB" in notes(info)
        assert info.fingerprint not in (before, self.plain_fingerprint(here))

    def plain_fingerprint(self, here: Path) -> str:
        """Of the same files, before they were read like this: what was stored is not this."""
        paths = [p for split in ("train", "test") for p in sorted((here / split).glob("*/*"))]
        files = [
            (p.relative_to(here).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest())
            for p in paths
        ]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()

    def test_a_gray_first_row_makes_no_table_gray(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1])
        images = [encode(Image.fromarray(picture(50)).convert("L")), encode(picture(51))]
        table(here / "train-0.parquet", [*images], [0, 1])
        assert both(roots, "parquet")[0].shape == (3, SIDE, SIDE)

    def test_gray_images_stay_gray(self, roots: DataRoots, here: Path) -> None:
        for seed, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
            put(here / place / "0.png", encode(picture(seed, SIDE, SIDE)))
        info, data = both(roots, "image_folder")
        assert info.shape == (1, SIDE, SIDE)
        assert np.array_equal(data.train.images[1, 0], picture(1, SIDE, SIDE))
        assert notes(info) == ""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_images_are_turned_upright(
        self, roots: DataRoots, here: Path, orientation: int, kind: str
    ) -> None:
        turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
            1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1],
            4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
            8: lambda a: np.rot90(a),
        }  # fmt: skip
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = [picture(seed, 4, 7, 3) for seed in range(4)]
        for pixels, place in zip(stored, ("train/a", "train/b", "test/a", "test/b"), strict=True):
            put(here / place / f"0.{kind.lower()}", encode(pixels, kind, exif=exif))
        info, data = both(roots, "image_folder")
        shown = turns[orientation](stored[0])
        assert info.shape == (3, *shown.shape[:2])
        assert np.array_equal(data.train.images[0], shown.transpose(2, 0, 1))
        told = orientation != 1 and kind == "PNG"
        assert ("4 of 4 images are turned as their EXIF" in notes(info)) == told
        # Pillow has always turned TIFF files by itself: they are not other images than before.
        assert (info.fingerprint != self.plain_fingerprint(here)) == told

    @pytest.mark.parametrize(
        ("kind", "count", "value"), [(2, 2, b"3"), (7, 1, b"\3"), (3, 1, b"\t")]
    )
    def test_an_orientation_that_is_none_turns_nothing(
        self, roots: DataRoots, here: Path, kind: int, count: int, value: bytes
    ) -> None:
        """Text, bytes, and 9."""
        put_images(here)
        entry = struct.pack("<HHHI4sI", 1, 0x0112, kind, count, value, 0)
        exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry
        put(here / "train/a/0.png", encode(picture(0), "PNG", exif=exif))
        found = both(roots, "image_folder")[1].train.images[0]
        assert np.array_equal(found, picture(0).transpose(2, 0, 1))

    def test_damaged_exif_data_damages_no_image(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        put(here / "train/a/0.jpg", encode(picture(80), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff"))
        assert both(roots, "image_folder")[0].train_examples == 7

    @pytest.mark.parametrize("gray", [False, True])
    def test_sixteen_bits_are_refused(self, roots: DataRoots, here: Path, gray: bool) -> None:
        put_images(here)
        put(here / "train/b/deep.png", png_of_16_bits(gray))
        refused(roots, "image_folder", r"train/b/deep\.png has more than 8 bits per channel")

    @pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "PPM"])
    def test_sixteen_bits_of_other_formats_are_refused(
        self, roots: DataRoots, here: Path, kind: str
    ) -> None:
        put_images(here)
        suffix = {"TIFF": "tif", "JPEG2000": "jp2", "PPM": "pgm"}[kind]
        deep = encode(np.full((SIDE, SIDE), 4000, np.uint16), kind)
        put(here / f"train/b/deep.{suffix}", deep)
        refused(roots, "image_folder", rf"deep\.{suffix} has more than 8 bits per channel")

    def test_sixteen_bits_of_colour_in_plain_formats_are_refused(
        self, roots: DataRoots, here: Path
    ) -> None:
        put_images(here)
        deep = here / "train/b/deep.ppm"
        put(deep, b"P6 %d %d 4095\n" % (SIDE, SIDE) + b"\x0f\xff" * SIDE * SIDE * 3)
        refused(roots, "image_folder", r"deep\.ppm has more than 8 bits per channel")
        deep.unlink()
        header = struct.pack(">HBBHHHHll", 474, 0, 2, 3, SIDE, SIDE, 3, 0, 65535)
        put(here / "train/b/deep.sgi", header.ljust(512, b"\0") + b"\x0f\xff" * SIDE * SIDE * 3)
        refused(roots, "image_folder", r"deep\.sgi has more than 8 bits per channel")

    def test_five_bits_of_colour_are_read(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        size, row = SIDE * SIDE * 2, b"\x1f\x00" * SIDE
        masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
        info = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 16, 3, size, 0, 0, 0, 0)
        put(here / "train/b/x.bmp", b"BM" + struct.pack("<IHHI", 66 + size, 0, 0, 66) + info
            + masks + row * SIDE)  # fmt: skip
        found = both(roots, "image_folder")[1].train.images[-1]
        assert found[2].min() == 255
        assert found[:2].max() == 0

    def test_what_is_lost_is_told(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        clear = Image.fromarray(picture(20, SIDE, SIDE, 4))
        opaque = Image.fromarray(picture(21)).convert("RGBA")
        inks = Image.fromarray(picture(22)).convert("CMYK")
        put(here / "train/a/clear.png", encode(clear))
        put(here / "train/a/opaque.png", encode(opaque))
        put(here / "train/a/inks.tif", encode(inks, "TIFF"))
        film = [Image.new("L", (SIDE, SIDE), shade) for shade in (9, 200)]
        frames = encode(film[0], "GIF", save_all=True, append_images=film[1:])
        put(here / "train/a/film.gif", frames)
        info, _ = both(roots, "image_folder")
        assert "1 of 16 images are transparent in parts" in notes(info)
        assert "1 of 16 images are CMYK, turned into RGB" in notes(info)
        assert "1 of 16 images are of several frames; the first is taken" in notes(info)


def png_of_16_bits(gray: bool) -> bytes:
    """By hand: Pillow cannot write colours of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + b"\x0f\xff" * SIDE * (1 if gray else 3)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 0 if gray else 2, 0, 0, 0)
    data = zlib.compress(row * SIDE)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "shown"),
        [
            ([1, 2, 3], "1, 2, 3, and not 0 to 2"),
            ([0, 1, 5_000_000], "0, 1, 5000000, and not 0 to 2"),
            ([0, 4_000_000_000], "0, 4000000000, and not 0 to 1"),
            ([-1, 0], "-1, 0, and not 0 to 1"),
            ([*range(9), 11], r"0, 1, 2, 3, … 11, and not 0 to 9"),
        ],
    )
    def test_with_gaps_are_refused(
        self, roots: DataRoots, here: Path, labels: list[int], shown: str
    ) -> None:
        put_tables(here, labels)
        refused(roots, "parquet", f"{here}, column label: the labels are {shown}")

    def test_that_only_the_test_has_are_refused(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1], [0, 2])
        for relabel in (False, True):
            refused(roots, "parquet", "no training example has the test label 2", relabel=relabel)

    def test_are_numbered_in_order_when_asked_for(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [30, -2, 7, 30], [7, 30])
        info, data = both(roots, "parquet", relabel=True)
        assert data.train.labels.tolist() == [2, 0, 1, 2]
        assert data.test.labels.tolist() == [1, 2]
        assert info.contents
        assert info.contents.names == ("-2", "7", "30")
        assert info.contents.train.largest.name == "30"
        assert "relabel" in identity(config("parquet", relabel=True), info)
        assert "relabel" not in identity(config("parquet"), info)

    def test_of_one_class_are_refused(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 0])
        with pytest.raises(ValueError, match="parquet has one class only"):
            describe_dataset(config("parquet"), roots)
        shutil.rmtree(here)
        put_images(here, ("a",))
        with pytest.raises(ValueError, match="image_folder has one class only"):
            describe_dataset(config("image_folder"), roots)


class TestSplits:
    def test_one_file_in_both_is_refused(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1])
        refused(roots, "parquet", r"test-0\.parquet is a training and a test file", train="*.parq*")

    def test_one_image_in_both_is_refused_or_agreed_to(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        put(here / "test/b/copy.bmp", encode(picture(0), "BMP"))
        choice = config("image_folder")
        with pytest.raises(
            ValueError,
            match=rf"1 of the 7 test images .* {here}/test/b/copy.bmp is {here}/train/a/0.png",
        ):
            describe_dataset(choice, roots)
        agreed = config("image_folder", overlap=1)
        info = describe_dataset(agreed, roots)
        assert info.contents
        assert info.contents.overlap == 1
        assert identity(agreed, info) == identity(choice, info)
        put(here / "test/a/copy.png", encode(picture(0)))
        with pytest.raises(ValueError, match=r"2 of the 8 .* set dataset.overlap: 2"):
            describe_dataset(agreed, roots)

    def test_rows_in_both_are_named(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1, 0])
        table(here / "train-1.parquet", [encode(picture(4))], [1])
        with pytest.raises(ValueError, match=rf"test-0.parquet, row 1 is {here}/train-1.*, row 0"):
            describe_dataset(config("parquet"), roots)

    def test_images_that_are_all_equal_are_refused(self, roots: DataRoots, here: Path) -> None:
        for place in ("train/a", "train/b", "test/a"):
            put(here / place / "0.png", encode(picture(0)))
        with pytest.raises(ValueError, match="all 2 training images of image_folder are equal"):
            describe_dataset(config("image_folder"), roots)

    def test_are_counted(self, roots: DataRoots, here: Path) -> None:
        put_images(here)
        put(here / "train/a/flat.png", encode(np.full((SIDE, SIDE, 3), 9, np.uint8)))
        put(here / "train/a/flat-too.png", encode(np.full((SIDE, SIDE, 3), 9, np.uint8)))
        info, _ = both(roots, "image_folder", holdout=2)
        assert info.contents
        train = info.contents.train
        assert (train.examples, train.classes, train.constant, train.repeated) == (8, 2, 2, 1)
        assert (train.smallest.name, train.smallest.examples) == ("b", 3)
        assert (train.largest.name, train.largest.examples) == ("a", 5)
        assert info.train_examples == 6


class TestTables:
    def test_a_folder_of_parts_is_one(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1, 0, 1])
        table(here / "train-1.parquet/part-0.snappy.parquet", [encode(picture(60))], [1])
        table(here / "train-1.parquet/part-1.snappy.parquet", [encode(picture(61))], [0])
        put(here / "train-1.parquet/_SUCCESS", b"")
        put(here / "train-1.parquet/.part-0.snappy.parquet.crc", b"")
        info, data = both(roots, "parquet")
        assert data.train.labels.tolist() == [0, 1, 0, 1, 1, 0]
        assert info.train_examples == 6
        assert "left out: train-1.parquet/.part-0.snappy.parquet.crc" in notes(info)

    @pytest.mark.parametrize("empty", ["train-1.parquet", "train-.parquet", "test-9.parquet"])
    def test_an_empty_shard_is_empty(self, roots: DataRoots, here: Path, empty: str) -> None:
        put_tables(here, [0, 1])
        before = load_dataset(config("parquet"), roots)
        table(here / empty, [], [])
        _, data = both(roots, "parquet")
        assert np.array_equal(data.train.images, before.train.images)
        assert np.array_equal(data.test.labels, before.test.labels)

    def test_nothing_but_empty_shards_is_refused(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1])
        table(here / "test-0.parquet", [], [])
        refused(roots, "parquet", rf"{here}: the files test-\*.parquet have no rows")

    def test_tables_that_are_not_read_are_told(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1])
        table(here / "validation-0.parquet", [encode(picture(60))], [1])
        info, _ = both(roots, "parquet")
        assert "left out: validation-0.parquet (matches neither" in notes(info)

    def test_row_groups_are_read_in_small_batches(self, roots: DataRoots, here: Path) -> None:
        """What is in memory does not grow with the row group."""
        noise = [picture(seed, 96, 96, 3).tobytes() for seed in range(20)]
        images = [noise[number % 20] for number in range(4000)]  # 110 MB
        table(here / "train-0.parquet", [*images], [0, 1] * 2000, row_group_size=4000)
        found = table_images(ParquetFile(here / "train-0.parquet", 4000), "image")
        held = max(pa.total_allocated_bytes() for _ in found)
        assert held < 30e6

    def test_a_row_is_read_once_however_often_its_file_is_found(
        self, roots: DataRoots, here: Path
    ) -> None:
        put_tables(here, [0, 1])
        for name, seed in (("a", 60), ("sub/b", 61)):
            table(here / f"train-more/{name}.parquet", [encode(picture(seed))], [seed % 2])
        (here / "train-link.parquet").symlink_to(here / "train-0.parquet")
        info, _ = both(roots, "parquet", train="train-*/**")
        assert info.train_examples == 2
        info, _ = both(roots, "parquet", train="train-*")
        assert info.train_examples == 4
        assert "left out: train-link.parquet (a second name of a file)" in notes(info)

    @pytest.mark.parametrize("folder", ["_temporary/0", ".cache", "_old"])
    def test_folders_of_what_is_no_data_are_not_read(
        self, roots: DataRoots, here: Path, folder: str
    ) -> None:
        put_tables(here, [0, 1])
        table(here / f"train/{folder}/train-9.parquet", [encode(picture(60))], [1])
        table(here / "train/train-1.parquet", [encode(picture(s)) for s in (61, 62)], [0, 1])
        for glob in ("train", "train/**/train-*.parquet"):
            info, _ = both(roots, "parquet", train=glob)
            assert info.train_examples == 2
            assert "left out: train/" in notes(info)

    def test_a_pipe_is_told_and_not_waited_for(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1])
        os.mkfifo(here / "train-1.parquet")
        info, _ = both(roots, "parquet")
        assert "left out: train-1.parquet (neither a file nor a folder)" in notes(info)

    def test_two_columns_of_one_name_are_refused(self, roots: DataRoots, here: Path) -> None:
        put_tables(here, [0, 1])
        doubled = pa.table([[b""], [0], [1]], ["image", "label", "label"])
        pq.write_table(doubled, here / "train-0.parquet")
        refused(roots, "parquet", r"train-0\.parquet has several columns 'label'")

    @pytest.mark.parametrize("glob", ["/train-*", "**.parquet", "."])
    def test_globs_that_are_none_are_refused(self, roots: DataRoots, here: Path, glob: str) -> None:
        put_tables(here, [0, 1])
        refused(roots, "parquet", r"is no glob of files in a folder", train=glob)


class TestDecodedOnce:
    """Files are decoded once, until one changes; whatever befalls the cache costs time only."""

    @pytest.fixture(params=["image_folder", "parquet"])
    def options(self, request: pytest.FixtureRequest, here: Path) -> DatasetOptions:
        put_images(here)
        for split in ("train", "test"):
            files = sorted((here / split).rglob("*.png"))
            images = [file.read_bytes() for file in files]
            pq.write_table(
                pa.table({"image": images, "label": [number % 2 for number in range(len(images))]}),
                here / f"{split}-0.parquet",
            )
        return config(request.param)

    @pytest.fixture
    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The images that were decoded."""
        seen: list[str] = []
        one = _Drawing._one

        def noting(drawing: _Drawing, encoded: Encoded) -> Any:
            seen.append(encoded.where)
            return one(drawing, encoded)

        monkeypatch.setattr(_Drawing, "_one", noting)
        return seen

    def kept(self, roots: DataRoots) -> list[Path]:
        return sorted((roots.cache / "decoded").iterdir())

    def same(self, one: Dataset, other: Dataset) -> bool:
        arrays = [
            (getattr(getattr(one, split), name), getattr(getattr(other, split), name))
            for split in ("train", "test")
            for name in ("images", "labels")
        ]
        rest = [
            replace(each, train=one.train, test=one.test, validation=None) for each in (one, other)
        ]
        return vars(rest[0]) == vars(rest[1]) and all(
            np.array_equal(a, b) and a.dtype == b.dtype and b.flags.writeable for a, b in arrays
        )

    def test_for_the_description_and_for_training(
        self, roots: DataRoots, here: Path, options: DatasetOptions, decoded: list[str]
    ) -> None:
        before = sorted(here.rglob("*"))
        first = options(roots)
        assert len(decoded) == 12
        info = describe_dataset(options, roots)
        assert len(decoded) == 12
        assert self.same(first, options(roots))
        assert len(decoded) == 12
        # As it is found where nothing was kept.
        elsewhere = replace(roots, cache=roots.cache.with_name("other"))
        assert describe_dataset(options, elsewhere) == info
        assert self.same(first, options(elsewhere))
        assert len(decoded) == 24
        assert sorted(here.rglob("*")) == before

    def test_until_a_file_changes(
        self, roots: DataRoots, here: Path, options: DatasetOptions, decoded: list[str]
    ) -> None:
        first = options(roots)
        for file in (here / "train/a/0.png", here / "train-0.parquet"):
            content = file.read_bytes()
            file.unlink()
            if file.suffix == ".png":
                content = encode(picture(99))
            file.write_bytes(content)
        again = options(roots)
        assert len(decoded) == 24
        assert self.same(first, again) == (options.name == "parquet")

    def test_and_again_when_it_is_damaged(
        self, roots: DataRoots, options: DatasetOptions, decoded: list[str]
    ) -> None:
        first = options(roots)
        (file,) = self.kept(roots)
        whole = file.read_bytes()
        flipped = [bytearray(whole) for _ in range(40)]
        for number, content in enumerate(flipped):
            content[len(whole) * number // len(flipped)] ^= 1
        damaged = [b"", whole[:20], whole[:35], whole[:-1], whole + b"0", *map(bytes, flipped)]
        for number, content in enumerate(damaged, start=1):
            file.write_bytes(content)
            assert self.same(first, options(roots))
            assert len(decoded) == 12 * (1 + number)
            assert file.read_bytes() == whole
        assert self.same(first, options(roots))
        assert len(decoded) == 12 * (1 + len(damaged))

    def test_each_time_where_nothing_can_be_kept(
        self, roots: DataRoots, options: DatasetOptions, decoded: list[str]
    ) -> None:
        roots.cache.write_text("no folder")
        first = options(roots)
        roots.cache.unlink()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # As on a full disk: what is written fails in its middle.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            again = options(roots)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert self.same(first, again)
        assert self.kept(roots) == []
        assert len(decoded) == 24

    def test_and_kept_once_by_many_at_a_time(
        self, roots: DataRoots, options: DatasetOptions
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: options(roots), range(8)))
        assert all(self.same(found[0], other) for other in found)
        assert len(self.kept(roots)) == 1

    def test_and_kept_until_others_need_the_room(
        self,
        roots: DataRoots,
        here: Path,
        options: DatasetOptions,
        decoded: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options(roots)
        (first,) = self.kept(roots)
        monkeypatch.setattr("trainables.data.reading.KEPT_BYTES", int(2.5 * first.stat().st_size))
        for number in range(3):
            copy = here.with_name(f"copy{number}")
            shutil.copytree(here, copy)
            os.utime(first)
            for other in self.kept(roots):
                if other != first:
                    os.utime(other, (number, number))
            config(options.name, path=copy.name)(roots)
            assert len(self.kept(roots)) == 2
        options(roots)
        assert len(decoded) == 48


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    part: Any = "no bytes"
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", b"some", part)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_known_by_where_it_really_is(tmp_path: Path) -> None:
    put(tmp_path / "real/file", b"content")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link").symlink_to("folder/file")
    names = ("real/file", "folder/file", "link", "real/../folder/file")
    found = stamps({name: tmp_path / name for name in names})
    expected = (str(tmp_path.resolve() / "real/file"), *found[0][2:])
    assert [stamp[1:] for stamp in found] == [expected] * len(names)


def test_the_cache_folder_can_be_named(tmp_path: Path) -> None:
    named = data_roots("data", {"PRUNESWEEP_CACHE": str(tmp_path / "here")})
    assert named == DataRoots((Path("data").absolute(), tmp_path / "here"), tmp_path / "here")
    assert data_roots(None, {"PRUNESWEEP_CACHE": ""}) == data_roots(None, {})


def test_a_home_folder_that_nobody_has_is_not_found(roots: DataRoots) -> None:
    choice = config("parquet", path="~nobody-is-called-this/birds")
    with pytest.raises(DatasetNotFound, match="no dataset at ~nobody-is-called-this/birds"):
        describe_dataset(choice, roots)


def damaged(content: bytes, count: int = 40) -> list[bytes]:
    """Cut off at many places, and with a run of bytes zeroed at as many."""
    places = sorted({len(content) * number // count for number in range(count)})
    cut = [content[:place] for place in places]
    zeroed = [content[:place] + bytes(4) + content[place + 4 :] for place in places]
    return cut + zeroed


def check(read: Callable[[], Dataset], right: Dataset, file: Path, exact: bool) -> int:
    """1 for a message that names `file`, 0 for the right data; anything else fails."""
    found = outcome(read, file)
    if found is None:
        return 1
    assert found.train.images.shape == right.train.images.shape
    assert np.array_equal(found.train.labels, right.train.labels)
    if exact:
        assert np.array_equal(found.train.images, right.train.images)
    return 0


class TestDamage:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
    def test_of_an_image_is_one_message(self, roots: DataRoots, here: Path, kind: str) -> None:
        put_images(here)
        file = here / f"train/a/victim.{kind.lower()}"
        content = encode(picture(33), kind)
        put(file, content)
        right = load_dataset(config("image_folder"), roots)
        messages = 0
        for other in damaged(content):
            file.write_bytes(other)
            # Only PNG has checksums: with the others, zeroed bytes may be other colours.
            exact = kind == "PNG"
            messages += check(
                lambda: load_dataset(config("image_folder"), roots), right, file, exact
            )
        assert messages > 10

    @pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
    def test_of_a_table_is_one_message(
        self, roots: DataRoots, here: Path, compression: str
    ) -> None:
        put_tables(here, [0, 1] * 10)
        file = here / "train-0.parquet"
        images: list[bytes | None] = [encode(picture(seed)) for seed in range(20)]
        table(file, images, [0, 1] * 10, compression=compression, write_page_checksum=True)
        right = load_dataset(config("parquet"), roots)
        messages = 0
        for other in damaged(file.read_bytes()):
            file.write_bytes(other)
            messages += check(lambda: load_dataset(config("parquet"), roots), right, file, True)
        assert messages > 60

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_of_an_idx_file_is_one_message(self, tmp_path: Path, suffix: str) -> None:
        pixels = picture(1, 20, 4, 4)
        plain = struct.pack(">4B3I", 0, 0, 8, 3, 20, 4, 4) + pixels.tobytes()
        md5 = hashlib.md5(plain).hexdigest()
        content = gzip.compress(plain) if suffix else plain
        file = tmp_path / f"images{suffix}"
        messages = 0
        for other in damaged(content):
            file.write_bytes(other)
            found = outcome(lambda: read_idx(file, (20, 4, 4), md5), file)
            assert found is None or np.array_equal(found, pixels)
            messages += found is None
        assert messages > 60
