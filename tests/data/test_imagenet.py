"""ImageNet's archives and folders: every picture once, with the class that the release says."""

import io
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from gloro_jax.data.folders import listed

CLASSES = ("n01", "n02", "n03")
TRUTH = [2, 1, 3, 3]  # the devkit's numbers, which are not alphabetical
NUMBERS = {1: "n03", 2: "n01", 3: "n02"}


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


def add(archive, name, raw):
    entry = tarfile.TarInfo(name)
    entry.size = len(raw)
    archive.addfile(entry, io.BytesIO(raw))


def devkit(folder):
    synsets = np.array(
        list(NUMBERS.items()),
        dtype=[("ILSVRC2012_ID", object), ("WNID", object)],
    )
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        lines = "".join(f"{number}\n" for number in TRUTH).encode()
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", lines)


@pytest.fixture
def archives(tmp_path):
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in reversed(CLASSES):
            inside = io.BytesIO()
            with tarfile.open(fileobj=inside, mode="w") as inner:
                for j in range(2):
                    add(inner, f"{name}_{j}.JPEG", jpeg(10 * int(name[1:]) + j))
            add(outer, f"{name}.tar", inside.getvalue())
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as outer:
        for i in (3, 1, 4, 2):
            add(outer, f"ILSVRC2012_val_{i:08}.JPEG", jpeg(100 + i))
    devkit(tmp_path)
    return tmp_path


def check(found, names):
    assert names == CLASSES
    train = [(path.read_bytes(), label) for path, label in found["train"]]
    assert train == [(jpeg(10 * (k + 1) + j), k) for k in range(3) for j in range(2)]
    test = [(path.read_bytes(), label) for path, label in found["test"]]
    wanted = [CLASSES.index(NUMBERS[number]) for number in TRUTH]
    assert test == [(jpeg(101 + i), label) for i, label in enumerate(wanted)]


def test_archives_are_read_in_place(archives):
    check(*listed(archives))


def test_kaggles_folders_are_read_by_their_table(tmp_path):
    place = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for k, name in enumerate(CLASSES):
        (place / "train" / name).mkdir(parents=True)
        for j in range(2):
            (place / "train" / name / f"{name}_{j}.JPEG").write_bytes(jpeg(10 * (k + 1) + j))
    (place / "val").mkdir()
    lines = ["ImageId,PredictionString"]
    for i, number in enumerate(TRUTH, start=1):
        (place / "val" / f"ILSVRC2012_val_{i:08}.JPEG").write_bytes(jpeg(100 + i))
        lines.append(f"ILSVRC2012_val_{i:08},{NUMBERS[number]} 1 2 3 4 ")
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    check(*listed(tmp_path))


def test_parts_that_are_missing_are_named(archives):
    (archives / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(ValueError, match=r"which classes.*ILSVRC2012_devkit_t12.*LOC_val_solution"):
        listed(archives)
    devkit(archives)
    (archives / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(ValueError, match=r"no val images: ILSVRC2012_img_val\.tar"):
        listed(archives)


def test_pictures_of_classes_that_were_never_trained_are_named(archives):
    (archives / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n09 1 2 3 4\n"
    )
    with pytest.raises(ValueError, match=r"val_00000001\.JPEG: its class is 'n09'"):
        listed(archives)


@pytest.mark.parametrize("name", ["img_train.tar", "img_val.tar", "devkit_t12.tar.gz"])
@pytest.mark.parametrize("is_between_files", [True, False])
def test_archives_that_were_not_downloaded_to_their_end_are_named(archives, name, is_between_files):
    path = archives / f"ILSVRC2012_{name}"
    raw = path.read_bytes()
    length = 2 * len(raw) // 3
    if name.endswith(".tar"):
        with tarfile.open(path) as archive:
            last = archive.getmembers()[-1]
        length = last.offset if is_between_files else last.offset_data + 10
    path.write_bytes(raw[:length])
    with pytest.raises(ValueError, match=rf"{name} is damaged, or was not downloaded to its end"):
        listed(archives)


def test_a_table_of_other_columns_is_refused(archives):
    (archives / "LOC_val_solution.csv").write_text("image,class\nILSVRC2012_val_00000001,n01\n")
    with pytest.raises(ValueError, match="no table of ImageId and PredictionString"):
        listed(archives)
