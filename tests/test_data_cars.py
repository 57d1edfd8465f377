"""Stanford Cars from its two files."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from keras_effv2 import data


@pytest.fixture
def cars(tmp_path):
    """The two files of Stanford Cars, with twelve cars of two makes."""
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "car_ims.tgz", "w:gz") as tar:
        for i in range(12):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype="uint8")).save(picture, "JPEG")
            member = tarfile.TarInfo(f"car_ims/{i:06d}.jpg")
            member.size = len(picture.getvalue())
            tar.addfile(member, io.BytesIO(picture.getvalue()))
    kind = [("relative_im_path", "O"), ("bbox_x1", "O"), ("class", "O"), ("test", "O")]
    rows = np.array([(f"car_ims/{i:06d}.jpg", 1, i % 2 + 1, int(i >= 8)) for i in range(12)], kind)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], object)
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": names})
    return tmp_path


def test_cars_from_their_two_files(cars):
    loaded = data.load(f"cars:{cars}", validation=0.3)
    assert loaded.class_names[1] == "Acura RL Sedan 2012"
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [6, 2, 4]
    for split in (loaded.train, loaded.validation, loaded.test):
        numbers = [int(os.path.basename(file)[:6]) for file in split.pictures]
        assert [number % 2 for number in numbers] == split.labels.tolist()
    assert not [name for name in os.listdir(cars) if name.startswith("tmp")]
    (cars / "car_ims" / "000003.jpg").write_bytes(b"torn")
    assert len(data.load(f"cars:{cars}").train.skipped) == 1
    with pytest.raises(ValueError, match="000003.jpg is damaged"):
        data.load(f"cars:{cars}", strict=True)


def test_cars_without_their_files_or_with_a_torn_archive(cars, tmp_path):
    content = (cars / "car_ims.tgz").read_bytes()
    (cars / "car_ims.tgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="car_ims.tgz is a damaged archive"):
        data.load(f"cars:{cars}")
    assert not (cars / "car_ims").exists()
    (cars / "cars_annos.mat").unlink()
    with pytest.raises(FileNotFoundError, match="lacks cars_annos.mat, or car_ims.tgz"):
        data.load(f"cars:{cars}")
