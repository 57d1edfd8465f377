"""Batches of training and evaluation: which picture, in which order, with which label."""

import pathlib

import numpy as np
import pytest
from made_pictures import encoded, evaluated, fill, noise, numbered, numbers

from keras_effv2 import data, photos
from keras_effv2.augment import Augment
from keras_effv2.phases import ramp

STILL = Augment(flip=False, crop_area=(1.0, 1.0))


def test_pipelines_share_the_pictures():
    """A copy for every epoch would pile up."""
    split = numbered(12)
    split.train_batches(image_size=4, batch_size=4)
    first = split._tensor
    split.train_batches(image_size=4, batch_size=4, epoch=1)
    assert split._tensor is first


def test_shards_mix_with_shares_of_their_own():
    split, mixed = numbered(64), Augment(mixup=0.5, flip=False, crop_area=(1.0, 1.0))
    settings = {"image_size": 4, "batch_size": 16, "augment": mixed}
    shares = [
        [labels.numpy().max(1) for _, labels in split.train_batches(shard=(i, 2), **settings)][0]
        for i in range(2)
    ]
    assert not np.allclose(*(np.sort(share) for share in shares))


@pytest.mark.parametrize("shards", (1, 2, 3))
def test_shards_make_the_global_batches(shards):
    split, whole = numbered(50), 12
    settings = {"image_size": 4, "seed": 3, "epoch": 1, "augment": STILL}
    wanted = split.order(3, 1)[:48].reshape(4, 12).tolist()
    parts = [
        numbers(split.train_batches(batch_size=whole // shards, shard=(i, shards), **settings))
        for i in range(shards)
    ]
    assert [sum(batches, []) for batches in zip(*parts, strict=True)] == wanted
    assert len(set(sum(wanted, []))) == 48


@pytest.mark.parametrize("shards", (1, 2, 3))
def test_shards_cover_an_epoch_with_its_remainder(shards):
    seen = []
    for i in range(shards):
        batches = numbered(50).train_batches(
            image_size=4, batch_size=4, shard=(i, shards), drop_remainder=False, augment=STILL
        )
        seen += sum(numbers(batches), [])
    assert sorted(seen) == list(range(50))


def test_labels_belong_to_their_pictures():
    for images, labels in numbered(50).train_batches(image_size=4, batch_size=10, augment=STILL):
        np.testing.assert_array_equal(labels, np.eye(3)[images.numpy()[:, 0, 0, 0] % 3])


def test_the_order_is_a_permutation_that_differs_by_seed_and_epoch():
    split = numbered(50)
    orders = [tuple(split.order(seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 16
    first = np.array([split.order(0, epoch)[0] for epoch in range(1000)])
    assert np.bincount(first, minlength=50).max() < 20 + 5 * np.sqrt(20)  # no favourite


@pytest.mark.parametrize("seed, epoch", ((0, 0), (2**40 + 7, 5000)))
def test_a_skipped_start_changes_nothing_after_it(seed, epoch):
    split = data.load("digits").validation
    settings = {
        "image_size": 16,
        "batch_size": 25,
        "seed": seed,
        "epoch": epoch,
        "augment": Augment(randaugment=10, layers=1, mixup=0.5, cutmix=0.5, erasing=0.3),
    }
    whole = list(split.train_batches(**settings))
    for skip in (3, len(whole)):
        rest = list(split.train_batches(skip=skip, **settings))
        assert len(rest) == len(whole) - skip
        for ours, wanted in zip(rest, whole[skip:], strict=True):
            np.testing.assert_array_equal(ours[0], wanted[0])
            np.testing.assert_array_equal(ours[1], wanted[1])
    other = next(iter(split.train_batches(**{**settings, "epoch": epoch + 1})))
    assert not np.array_equal(other[0], whole[0][0])


def test_skipped_pictures_are_not_read(tmp_path):
    split = data.load(str(fill(tmp_path))).train
    for i in split.order(0, 0)[:4]:
        pathlib.Path(split.pictures[i]).unlink()
    assert len(list(split.train_batches(image_size=8, batch_size=4, skip=1))) == 3


def test_each_phase_has_its_size():
    phases = ramp(8, 4, image_size=(128, 300))
    for phase, size in zip(phases, (128, 185, 243, 300), strict=True):
        images, _ = next(iter(numbered(4).train_batches(image_size=phase.image_size, batch_size=2)))
        assert images.shape == (2, size, size, 3) and images.dtype == "uint8"


def test_a_batch_larger_than_the_split_is_an_error():
    with pytest.raises(ValueError, match="batch of 51 .* 50 pictures.*at most 50"):
        numbered(50).steps(51)
    assert numbered(50).steps(16) == 3


@pytest.mark.parametrize("shards", (1, 2, 3))
@pytest.mark.parametrize("count", (5, 24, 50))
def test_every_picture_is_evaluated_once(count, shards):
    seen, lengths = [], set()
    for i in range(shards):
        batches = list(numbered(count).eval_batches(image_size=4, batch_size=4, shard=(i, shards)))
        lengths.add(len(batches))
        for images, labels, mask in batches:
            assert images.shape == (4, 4, 4, 3) and labels.shape == (4, 3)
            own = images.numpy()[mask.numpy() == 1, 0, 0, 0].astype(int)
            np.testing.assert_array_equal(labels.numpy()[mask.numpy() == 1], np.eye(3)[own % 3])
            seen += own.tolist()
    assert sorted(seen) == list(range(count))
    assert lengths == {-(-count // (4 * shards))}


def test_the_centre_is_cut_as_automl_does(tmp_path):
    pixels = noise(2, 64, 96)  # side 64 * 32 / (32 + 32) of the centre
    ours = evaluated(tmp_path, encoded(pixels), 32, crop="automl")
    np.testing.assert_array_equal(ours, pixels[16:48, 32:64])


@pytest.mark.parametrize("crop", ("none", "automl"))
@pytest.mark.parametrize("resize", ("bilinear", "bicubic"))
def test_evaluation_sees_what_prediction_sees(tmp_path, crop, resize):
    pixels = noise(3, 50, 70)
    ours = evaluated(tmp_path, encoded(pixels), 24, crop=crop, resize=resize)
    # TensorFlow takes cubic weights from a table of 1024 entries
    np.testing.assert_allclose(ours, photos.prepare(pixels, 24, crop, resize), atol=0.2)


def test_training_crops_are_parts_of_the_picture():
    """A ramp from left to right: each crop is a ramp between two of its values."""
    ramp = np.broadcast_to(np.arange(0, 256, 2, dtype="uint8")[None, :, None], (128, 128, 3))
    split = data.Split(["a", "b"], [0, 1] * 32, np.tile(ramp, (64, 1, 1, 1)))
    settings = Augment(flip=False, crop_area=(0.45, 0.55))
    ((images, _),) = split.train_batches(image_size=32, batch_size=64, augment=settings)
    images = images.numpy().astype(int)
    assert (np.ptp(images, axis=(1, 3)) == 0).all()
    steps = np.diff(images[:, 0, :, 0])
    width = steps.mean(1) * 32 / 2  # columns of the crop
    assert (np.ptp(steps, axis=1) <= 2).all()
    low, high = 128 * np.sqrt(0.45 * 3 / 4), 128 * np.sqrt(0.55 * 4 / 3)
    assert low - 3 < width.min() < width.max() < high + 3
    assert np.ptp(width) > 10 and len(set(images[:, 0, 0, 0])) > 10
