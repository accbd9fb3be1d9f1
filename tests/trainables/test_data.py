"""Datasets: readers, splits, identity, and what is said when something is missing."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from trainables.data import (
    DATASET,
    DataRoots,
    DatasetConfig,
    DatasetInfo,
    DatasetNotFound,
    DatasetOptions,
    data_roots,
    describe_dataset,
    identity,
    load_dataset,
)
from trainables.data import download as downloads
from trainables.data import mnist as idx_datasets
from trainables.data.dataset import channel_statistics
from trainables.data.idx import read_idx
from trainables.plugins.entry import built_in
from trainables.torchvision_import import import_torchvision


def config(name: str, **options: object) -> DatasetOptions:
    return TypeAdapter(DatasetConfig).validate_python({"name": name, **options})


@pytest.fixture
def roots(tmp_path: Path) -> DataRoots:
    return DataRoots(candidates=(tmp_path / "data", tmp_path / "cache"), cache=tmp_path / "cache")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_answers", lambda url: False)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def pictures(count: int, seed: int, shape: tuple[int, ...] = (4, 5, 3)) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, *shape), dtype=np.uint8)


class TestRoots:
    def test_are_searched_in_the_documented_order(self, tmp_path: Path) -> None:
        found = data_roots(str(tmp_path / "given"), {"PRUNESWEEP_DATA": str(tmp_path / "env")})
        assert found.candidates == (tmp_path / "given", tmp_path / "env", found.cache)
        assert found.cache.name == "prunesweep"

    def test_unset_and_empty_names_are_left_out(self) -> None:
        found = data_roots(None, {"PRUNESWEEP_DATA": ""})
        assert found.candidates == (found.cache,)

    def test_are_absolute(self) -> None:
        assert data_roots("here", {}).candidates[0] == Path.cwd() / "here"


class TestDigits:
    def test_shapes_classes_and_values(self, roots: DataRoots) -> None:
        digits = load_dataset(config("digits"), roots)
        assert digits.train.images.shape == (1437, 1, 8, 8)
        assert digits.test.images.shape == (360, 1, 8, 8)
        assert digits.train.images.dtype == np.uint8
        assert digits.train.labels.dtype == np.int64
        assert digits.train.images.max() == 240
        assert digits.validation is None
        assert set(digits.test.labels) == set(range(10))

    def test_are_the_same_every_time(self, roots: DataRoots) -> None:
        first, again = (load_dataset(config("digits", subset=50), roots) for _ in range(2))
        assert np.array_equal(first.train.images, again.train.images)
        assert (first.mean, first.std) == (again.mean, again.std)

    def test_the_description_is_true(self, roots: DataRoots) -> None:
        choice = config("digits", holdout=37, subset=400)
        info, digits = describe_dataset(choice, roots), load_dataset(choice, roots)
        assert info.shape == digits.train.images.shape[1:]
        assert info.train_examples == len(digits.train) == 400
        assert info.test_examples == len(digits.test)
        assert info.classes == digits.classes


def test_statistics_are_those_of_scaled_images() -> None:
    images = pictures(50, seed=0, shape=(2, 6, 7))
    images[:, 1] = 9
    mean, std = channel_statistics(images)
    scaled = images / 255
    assert mean == pytest.approx(scaled.mean(axis=(0, 2, 3)))
    assert std == pytest.approx((scaled[:, 0].std(), 1.0))


class TestHoldoutAndSubset:
    def test_are_disjoint_parts_of_the_training_set(self, roots: DataRoots) -> None:
        whole = load_dataset(config("digits"), roots).train
        parts = load_dataset(config("digits", holdout=437), roots)
        assert parts.validation is not None
        assert len(parts.validation) == 437
        rows = [image.tobytes() for image in whole.images]
        split = [i.tobytes() for part in (parts.train, parts.validation) for i in part.images]
        assert sorted(rows) == sorted(split)

    def test_subset_keeps_the_holdout(self, roots: DataRoots) -> None:
        some = load_dataset(config("digits", holdout=100, subset=60), roots)
        more = load_dataset(config("digits", holdout=100), roots)
        assert some.validation is not None
        assert more.validation is not None
        assert np.array_equal(some.validation.images, more.validation.images)
        left = {image.tobytes() for image in more.train.images}
        assert all(image.tobytes() in left for image in some.train.images)

    def test_subset_is_balanced(self, roots: DataRoots) -> None:
        labels = load_dataset(config("digits", subset=105), roots).train.labels
        assert sorted(np.bincount(labels)) == [10] * 5 + [11] * 5

    def test_subset_is_as_balanced_as_it_can_be(self, roots: DataRoots) -> None:
        labels = load_dataset(config("digits", subset=1400), roots).train.labels
        whole = load_dataset(config("digits"), roots).train.labels
        kept, there = np.bincount(labels), np.bincount(whole)
        assert all((kept == there) | (kept >= kept.max() - 1))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"holdout": 1437}, "holdout: 1437 .* 1437 training"),
            ({"subset": 1438}, "subset: 1438 .* 1437 training"),
            ({"holdout": 1000, "subset": 438}, "subset: 438 .* 437 training"),
        ],
    )
    def test_too_large_is_refused_with_the_numbers(
        self, roots: DataRoots, options: dict, message: str
    ) -> None:
        for use in (load_dataset, describe_dataset):
            with pytest.raises(ValueError, match=message):
                use(config("digits", **options), roots)

    def test_negative_is_refused_by_the_config(self) -> None:
        with pytest.raises(ValidationError):
            config("digits", holdout=-1)


class TestIdx:
    VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    CONTENT = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + VALUES.tobytes()
    MD5 = hashlib.md5(CONTENT).hexdigest()

    def write(self, folder: Path, content: bytes) -> Path:
        path = folder / "images-idx3-ubyte"
        path.write_bytes(content)
        return path

    def test_plain_and_gzipped_read_back(self, tmp_path: Path) -> None:
        zipped = tmp_path / "images.gz"
        zipped.write_bytes(gzip.compress(self.CONTENT))
        for path in (self.write(tmp_path, self.CONTENT), zipped):
            assert np.array_equal(read_idx(path, (2, 3, 4), self.MD5), self.VALUES)

    @pytest.mark.parametrize("length", [0, 3, 9, 16, 39])
    def test_truncation_is_reported_with_the_file(self, tmp_path: Path, length: int) -> None:
        with pytest.raises(ValueError, match="images-idx3-ubyte"):
            read_idx(self.write(tmp_path, self.CONTENT[:length]), (2, 3, 4), self.MD5)

    def test_a_truncated_gzip_is_reported_with_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "images.gz"
        for content in (gzip.compress(self.CONTENT)[:-12], b"no gzip"):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"images\.gz is truncated or damaged"):
                read_idx(path, (2, 3, 4), self.MD5)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\0\0\x0d" + CONTENT[3:], "not an idx file of unsigned bytes with 3 dimensions"),
            (CONTENT + b"\0", "25 values, expected 24"),
            (struct.pack(">4B3I", 0, 0, 8, 3, 2, 4, 3) + CONTENT[16:], r"shape \(2, 4, 3\)"),
            (CONTENT[:-1] + b"\0", "another file of this name than the published one, or damaged"),
        ],
    )
    def test_other_content_is_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_idx(self.write(tmp_path, content), (2, 3, 4), self.MD5)


class TestMnist:
    def write(self, folder: Path) -> tuple[str, ...]:
        """Four files of blank images, and their checksums."""
        folder.mkdir(parents=True)
        sums = []
        for kind, count in (("train", 60_000), ("t10k", 10_000)):
            images = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + bytes(count * 784)
            labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(count)
            for name, content in (("images-idx3", images), ("labels-idx1", labels)):
                (folder / f"{kind}-{name}-ubyte").write_bytes(content)
                sums.append(hashlib.md5(content).hexdigest())
        return tuple(sums)

    def publish(self, sums: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the files with these checksums for the published ones."""
        monkeypatch.setattr(idx_datasets, "MNIST", replace(idx_datasets.MNIST, md5=sums))

    @pytest.mark.parametrize("folder", ["data", "data/MNIST/raw", "cache/mnist"])
    def test_is_found_where_people_keep_it(
        self, tmp_path: Path, roots: DataRoots, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.publish(self.write(tmp_path / folder), monkeypatch)
        mnist = load_dataset(config("mnist", subset=10), roots)
        assert mnist.test.images.shape == (10_000, 1, 28, 28)
        assert mnist.mean == (0.1307,)

    def test_another_dataset_of_the_same_file_names_is_not_taken_for_it(
        self, tmp_path: Path, roots: DataRoots
    ) -> None:
        self.write(tmp_path / "data")
        for name in ("mnist", "fashion_mnist"):
            with pytest.raises(ValueError, match=r"train-images-idx3-ubyte is another file"):
                load_dataset(config(name), roots)

    def test_a_download_is_used_from_the_cache(
        self, roots: DataRoots, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(downloads, "_answers", lambda url: True)
        monkeypatch.setattr(
            "trainables.data.mnist.IdxDataset._fetch",
            lambda _, root: self.publish(self.write(root / "MNIST/raw"), monkeypatch),
        )
        assert len(idx_datasets.MNIST._download(roots)) == 4
        assert len(load_dataset(config("mnist"), roots).train) == 60_000
        assert [path.name for path in roots.cache.iterdir()] == ["MNIST"]


def of_python_2(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch of images [n, 3, 32, 32] as Python 2 and its NumPy pickled the published files."""
    size = struct.pack("<i", images.size)
    return b"".join([
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85",
        b"U\x01btR(K\x01K", bytes([len(images)]), b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01",
        b"\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T", size,
        images.tobytes(), b"tbU\x06labels](", *(b"K" + bytes([label]) for label in labels), b"eu.",
    ])  # fmt: skip


class TestCifar:
    BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

    def write(
        self, roots: DataRoots, contents: Sequence[object], monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        """Files whose checksums are taken for the published ones."""
        folder = roots.candidates[0] / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        sums = []
        for name, content in zip(self.BATCHES, contents, strict=True):
            written = content if isinstance(content, bytes) else pickle.dumps(content, protocol=4)
            (folder / name).write_bytes(written)
            sums.append([name, hashlib.md5(written).hexdigest()])
        published = import_torchvision().datasets.CIFAR10
        monkeypatch.setattr(published, "train_list", sums[:5])
        monkeypatch.setattr(published, "test_list", sums[5:])
        return folder

    def test_is_read_as_published(self, roots: DataRoots, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels = pictures(12, seed=1, shape=(3, 32, 32))
        batches = [
            {"data": pixels[2 * i : 2 * i + 2].reshape(2, -1), "labels": [i, 9]} for i in range(6)
        ]
        self.write(roots, [of_python_2(pixels[:2], [0, 9]), *batches[1:]], monkeypatch)
        cifar = load_dataset(config("cifar10"), roots)
        assert np.array_equal(cifar.train.images, pixels[:10])
        assert np.array_equal(cifar.test.images, pixels[10:])
        assert cifar.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]

    def test_a_pickle_that_calls_anything_is_refused(
        self, roots: DataRoots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        class Hostile:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(tmp_path / "pwned"),)

        folder = self.write(roots, [{"data": Hostile(), "labels": []}] * 6, monkeypatch)
        with pytest.raises(ValueError, match=rf"{folder} is .*: posix.mkdir is no part of an arr"):
            load_dataset(config("cifar10"), roots)
        assert not (tmp_path / "pwned").exists()

    def test_a_file_that_is_not_the_published_one_is_not_opened(
        self, roots: DataRoots, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = self.write(roots, [{}] * 6, monkeypatch)
        (folder / "data_batch_1").write_bytes(b"c" + b"other")
        with pytest.raises(ValueError, match="data_batch_1: not the published file; delete it"):
            load_dataset(config("cifar10"), roots)

    def test_damage_is_reported_with_the_folder(self, roots: DataRoots) -> None:
        folder = roots.candidates[0] / "cifar-100-python"
        folder.mkdir(parents=True)
        with pytest.raises(ValueError, match=rf"{folder} is incomplete or damaged"):
            load_dataset(config("cifar100"), roots)


class TestTinyImageNet:
    CLASSES = ("n02", "n01", "n03")
    TRAIN, TEST = pictures(6, seed=5, shape=(64, 64, 3)), pictures(4, seed=6, shape=(64, 64, 3))

    def write(self, roots: DataRoots, name: str = "tiny-imagenet-200") -> Path:
        """Two training images per class, the last of them gray; test images of any class."""
        folder = roots.candidates[0] / name
        (folder / "val/images").mkdir(parents=True)
        (folder / "wnids.txt").write_text("\n".join(self.CLASSES) + "\n")
        for index, pixels in enumerate(self.TRAIN):
            category = self.CLASSES[index // 2]
            path = folder / f"train/{category}/images/{category}_{index % 2}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(pixels if index < 5 else pixels[:, :, 0]))
        lines = []
        for index, (pixels, label) in enumerate(zip(self.TEST, (2, 0, 1, 0), strict=True)):
            (folder / f"val/images/val_{index}.JPEG").write_bytes(encode(pixels))
            lines.append(f"val_{index}.JPEG\t{self.CLASSES[label]}\t0\t0\t62\t62\n")
        (folder / "val/val_annotations.txt").write_text("".join(lines))
        return folder

    @pytest.mark.parametrize("name", ["tiny-imagenet-200", "tiny_imagenet"])
    def test_is_read_as_published(self, roots: DataRoots, name: str) -> None:
        self.write(roots, name)
        tiny = load_dataset(config("tiny_imagenet"), roots)
        assert np.array_equal(tiny.train.images[:5], self.TRAIN[:5].transpose(0, 3, 1, 2))
        assert all(
            np.array_equal(channel, self.TRAIN[5, :, :, 0]) for channel in tiny.train.images[5]
        )
        assert np.array_equal(tiny.test.images, self.TEST.transpose(0, 3, 1, 2))
        assert tiny.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert tiny.test.labels.tolist() == [2, 0, 1, 0]
        assert (tiny.classes, tiny.mean) == (3, (0.480, 0.448, 0.398))

    def test_a_jpeg_is_decoded(self, roots: DataRoots) -> None:
        file = self.write(roots) / "train/n02/images/n02_0.JPEG"
        file.write_bytes(encode(np.full((64, 64), 7, np.uint8), "JPEG"))
        assert np.all(load_dataset(config("tiny_imagenet"), roots).train.images[0] == 7)

    def test_without_files_the_description_is_that_of_the_published_set(self, roots) -> None:
        info = describe_dataset(config("tiny_imagenet", holdout=5_000), roots)
        assert (info.shape, info.classes) == ((3, 64, 64), 200)
        assert (info.train_examples, info.test_examples) == (95_000, 10_000)
        assert info.fingerprint is None

    def test_another_set_is_described_and_fingerprinted(self, roots: DataRoots) -> None:
        folder = self.write(roots)
        info = describe_dataset(config("tiny_imagenet"), roots)
        assert (info.classes, info.train_examples, info.test_examples) == (3, 6, 4)
        annotations = folder / "val/val_annotations.txt"
        annotations.write_text(annotations.read_text().replace("n01", "n03"))
        again = describe_dataset(config("tiny_imagenet"), roots)
        assert info.fingerprint
        assert again.fingerprint not in (None, info.fingerprint)

    def test_the_published_set_has_its_name_for_identity(
        self, roots: DataRoots, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(roots)
        published = DatasetInfo((3, 64, 64), 3, train_examples=6, test_examples=4)
        monkeypatch.setattr("trainables.data.tiny_imagenet.PUBLISHED", published)
        assert describe_dataset(config("tiny_imagenet"), roots) == published

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: shutil.rmtree(f / "train/n01"), "train/n01/images has 0 images, other .* 2"),
            (lambda f: (f / "train/n03/images/n03_1.JPEG").unlink(), "train/n03/images has 1 im"),
            (lambda f: shutil.rmtree(f / "train"), "train/n02/images has 0 images, other .* 1"),
            (lambda f: (f / "val/images/val_2.JPEG").unlink(), "lacks 1 images, first val_2.JPEG"),
            (lambda f: (f / "val/val_annotations.txt").unlink(), "annotations.txt is missing or"),
            (lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG"), "gives no class"),
            (lambda f: (f / "wnids.txt").write_text(""), "wnids.txt is missing or empty"),
            (lambda f: (f / "wnids.txt").write_text("n01\nn02"), "gives no class .* val_0.JPEG"),
        ],
    )
    def test_an_incomplete_folder_is_refused(
        self, roots: DataRoots, damage: Callable[[Path], object], message: str
    ) -> None:
        folder = self.write(roots)
        damage(folder)
        for use in (load_dataset, describe_dataset):
            with pytest.raises(ValueError, match=message) as caught:
                use(config("tiny_imagenet"), roots)
            assert str(folder) in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"text", "n01_1.JPEG is not an image"),
            (encode(TRAIN[0][:63]), "n01_1.JPEG has 63x64 pixels instead of 64x64"),
        ],
    )
    def test_a_damaged_image_is_named(self, roots, content: bytes, message: str) -> None:
        (self.write(roots) / "train/n01/images/n01_1.JPEG").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_dataset(config("tiny_imagenet"), roots)

    def test_where_it_was_looked_for_is_said(self, roots: DataRoots) -> None:
        with pytest.raises(DatasetNotFound) as caught:
            load_dataset(config("tiny_imagenet"), roots)
        message = str(caught.value)
        for root in roots.candidates:
            assert f"{root / 'tiny-imagenet-200'}\n" in message
            assert f"{root / 'tiny_imagenet'}\n" in message
        assert all(word in message for word in ("data_root:", "PRUNESWEEP_DATA", "as published"))


@pytest.mark.usefixtures("offline")
class TestNotFound:
    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
    def test_names_every_place_and_what_to_do(self, roots: DataRoots, name: str) -> None:
        with pytest.raises(DatasetNotFound) as caught:
            load_dataset(config(name), roots)
        message = str(caught.value)
        assert name in message
        assert all(str(root) in message for root in roots.candidates)
        assert all(word in message for word in ("data_root:", "PRUNESWEEP_DATA", "no answer"))
        assert str(pickle.loads(pickle.dumps(caught.value))) == message

    @pytest.mark.parametrize("name", ["parquet", "image_folder"])
    @pytest.mark.parametrize("use", [load_dataset, describe_dataset])
    def test_names_every_place_of_a_folder(self, roots: DataRoots, name: str, use) -> None:
        with pytest.raises(DatasetNotFound) as caught:
            use(config(name, path="birds"), roots)
        message = str(caught.value)
        assert all(str(root / "birds") in message for root in roots.candidates)
        assert "path:" in message

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
    def test_a_plan_needs_no_files(self, roots: DataRoots, name: str) -> None:
        info = describe_dataset(config(name, holdout=5_000), roots)
        assert info.test_examples == 10_000
        assert info.fingerprint is None


TRAIN, TEST = pictures(7, seed=2), pictures(3, seed=3)
TRAIN_LABELS, TEST_LABELS = [0, 1, 2, 0, 1, 2, 0], [2, 1, 0]


def write_parquet(path: Path, images: list, labels: list, plain: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    column = images if plain else [{"bytes": image, "path": None} for image in images]
    pq.write_table(pa.table({"image": column, "label": labels}), path, row_group_size=3)


def write_parquets(folder: Path, plain: bool = False) -> None:
    train, test = [encode(image) for image in TRAIN], [encode(image) for image in TEST]
    write_parquet(folder / "train-0.parquet", train[:4], TRAIN_LABELS[:4], plain)
    write_parquet(folder / "train-1.parquet", train[4:], TRAIN_LABELS[4:], plain)
    write_parquet(folder / "test-0.parquet", test, TEST_LABELS, plain)


def write_images(folder: Path) -> None:
    for split, images, labels in (("train", TRAIN, TRAIN_LABELS), ("val", TEST, TEST_LABELS)):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / f"class{label}" / f"{index}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image))


WRITERS = {"parquet": write_parquets, "image_folder": write_images}


class TestFolders:
    @pytest.mark.parametrize("name", WRITERS)
    def test_are_described_and_fingerprinted_by_content(self, roots: DataRoots, name: str) -> None:
        first, second = roots.candidates[0] / "here", roots.candidates[0] / "there"
        WRITERS[name](first)
        choice = config(name, path="here", holdout=2)
        info = describe_dataset(choice, roots)
        assert (info.shape, info.classes) == ((3, 4, 5), 3)
        assert (info.train_examples, info.test_examples) == (5, 3)
        assert identity(choice, info)["fingerprint"] == info.fingerprint
        assert "path" not in identity(choice, info)

        first.rename(second)
        moved = describe_dataset(config(name, path=str(second), holdout=2), roots)
        assert moved == info

    @pytest.mark.parametrize("name", WRITERS)
    def test_a_changed_image_changes_the_fingerprint(self, roots: DataRoots, name: str) -> None:
        folder = roots.candidates[0] / "here"
        WRITERS[name](folder)
        before = describe_dataset(config(name, path="here"), roots).fingerprint
        other = encode(255 - TRAIN[0])
        if name == "parquet":
            write_parquet(folder / "train-1.parquet", [other] * 3, TRAIN_LABELS[4:])
        else:
            (folder / "train/class0/0.PNG").write_bytes(other)
        assert describe_dataset(config(name, path="here"), roots).fingerprint != before

    @pytest.mark.parametrize("name", WRITERS)
    def test_fingerprints_are_remembered(
        self, roots: DataRoots, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        WRITERS[name](roots.candidates[0] / "here")
        before = describe_dataset(config(name, path="here"), roots)
        monkeypatch.setattr("trainables.data.fingerprint._content_digest", lambda path: "unused")
        assert describe_dataset(config(name, path="here"), roots) == before

    @pytest.mark.parametrize("torn", [b"", b"0" * 63, b"0" * 64 + b"\n", b"\xff" * 64])
    def test_what_is_left_of_a_cache_is_no_fingerprint(self, roots: DataRoots, torn: bytes) -> None:
        WRITERS["parquet"](roots.candidates[0] / "here")
        before = describe_dataset(config("parquet", path="here"), roots)
        for folder in ("fingerprints", "descriptions", "decoded"):
            [kept] = (roots.cache / folder).iterdir()
            kept.write_bytes(torn)
        assert describe_dataset(config("parquet", path="here"), roots) == before

    def test_parquet_images_come_back(self, roots: DataRoots) -> None:
        for folder, plain in (("struct", False), ("plain", True)):
            write_parquets(roots.candidates[0] / folder, plain)
            dataset = load_dataset(config("parquet", path=folder), roots)
            assert np.array_equal(dataset.train.images, TRAIN.transpose(0, 3, 1, 2))
            assert np.array_equal(dataset.test.images, TEST.transpose(0, 3, 1, 2))
            assert dataset.train.labels.tolist() == TRAIN_LABELS
            assert dataset.mean == pytest.approx((TRAIN / 255).mean(axis=(0, 1, 2)))

    def test_image_files_come_back_by_class(self, roots: DataRoots) -> None:
        write_images(roots.candidates[0] / "here")
        dataset = load_dataset(config("image_folder", path="here"), roots)
        order = np.argsort(TRAIN_LABELS, kind="stable")
        assert np.array_equal(dataset.train.images, TRAIN[order].transpose(0, 3, 1, 2))
        assert dataset.train.labels.tolist() == sorted(TRAIN_LABELS)

    def test_a_class_without_training_images_is_refused(self, roots: DataRoots) -> None:
        folder = roots.candidates[0] / "here"
        write_images(folder)
        (folder / "val/class0").rename(folder / "val/owl")
        with pytest.raises(ValueError, match="owl"):
            describe_dataset(config("image_folder", path="here"), roots)


class TestParquetContent:
    def load(self, roots: DataRoots, images: list, labels: list | None = None):
        folder = roots.candidates[0] / "here"
        labels = [0] * len(images) if labels is None else labels
        write_parquet(folder / "train-0.parquet", images, labels)
        write_parquet(folder / "test-0.parquet", images, labels)
        return load_dataset(config("parquet", path="here"), roots)

    def test_gray_images_have_one_channel(self, roots: DataRoots) -> None:
        pixels = pictures(3, seed=4, shape=(6, 7))
        dataset = self.load(roots, [encode(image) for image in pixels])
        assert np.array_equal(dataset.train.images[:, 0], pixels)

    def test_large_images_are_decoded_by_threads(self, roots: DataRoots) -> None:
        pixels = pictures(3, seed=4, shape=(64, 65, 3))
        dataset = self.load(roots, [encode(image) for image in pixels])
        assert np.array_equal(dataset.train.images, pixels.transpose(0, 3, 1, 2))

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            ([encode(TRAIN[0]), encode(TRAIN[0][1:])], [0, 0], "row 1 has 3x5 .* 4x5.*one size"),
            ([encode(TRAIN[0]), b"text"], [0, 0], "row 1 is not an image"),
            ([encode(TRAIN[0]), encode(TRAIN[0])[:60]], [0, 0], "row 1 cannot be decoded"),
            ([encode(TRAIN[0]), None], [0, 0], "row 1 has no image bytes"),
            ([encode(np.zeros((4, 5), np.uint16))], [0], "more than 8 bits"),
            ([encode(TRAIN[0])] * 2, [-1, 0], "the labels are -1, 0, and not 0 to 1"),
            ([encode(TRAIN[0])] * 2, [0, None], "1 rows without a label"),
            ([encode(TRAIN[0])], ["cat"], "labels must be integers"),
            (["a.png"], [0], "images must be binary"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, roots: DataRoots, images: list, labels: list, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            self.load(roots, images, labels)

    def test_a_missing_column_is_named_with_those_there(self, roots: DataRoots) -> None:
        write_parquets(roots.candidates[0] / "here")
        with pytest.raises(ValueError, match="no column 'img', only image, label"):
            describe_dataset(config("parquet", path="here", image="img"), roots)

    def test_a_torn_file_is_named(self, roots: DataRoots) -> None:
        folder = roots.candidates[0] / "here"
        write_parquets(folder)
        torn = folder / "train-1.parquet"
        torn.write_bytes(torn.read_bytes()[:-9])
        with pytest.raises(ValueError, match=r"train-1\.parquet is not a Parquet file, or a dam"):
            describe_dataset(config("parquet", path="here"), roots)


def test_identity_of_a_named_dataset_is_its_options(roots: DataRoots) -> None:
    choice = config("digits", holdout=3)
    assert identity(choice, describe_dataset(choice, roots)) == {"name": "digits", "holdout": 3}


def test_every_dataset_has_the_shared_options() -> None:
    for name in built_in(DATASET):
        path = {"path": "x"} if name in WRITERS else {}
        assert config(name, subset=5, **path).subset == 5


@pytest.fixture
def shared(tmp_path: Path) -> DataRoots:
    folder = os.environ.get("PRUNESWEEP_SHARED")
    if not folder:
        pytest.skip("PRUNESWEEP_SHARED does not name the folder with the real datasets")
    return DataRoots(candidates=(Path(folder) / "data",), cache=tmp_path)


class TestRealFiles:
    def test_fashion_mnist(self, shared: DataRoots) -> None:
        fashion = load_dataset(config("fashion_mnist"), shared)
        assert fashion.train.images.shape == (60_000, 1, 28, 28)
        assert fashion.test.images.shape == (10_000, 1, 28, 28)
        assert np.bincount(fashion.train.labels).tolist() == [6_000] * 10
        mean, std = channel_statistics(fashion.train.images)
        assert fashion.mean == pytest.approx(mean, abs=1e-4)
        assert fashion.std == pytest.approx(std, abs=1e-4)

    def test_cifar_parquet(self, shared: DataRoots) -> None:
        info = describe_dataset(config("parquet", path="cifar10-jpeg"), shared)
        assert (info.shape, info.classes) == ((3, 32, 32), 10)
        assert (info.train_examples, info.test_examples) == (50_000, 10_000)
