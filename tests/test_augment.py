"""Augmentation against Pillow, numpy and what the labels say about the pixels."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_effv2 import augment, data, recipes
from keras_effv2.augment import OPERATIONS, Augment
from keras_effv2.phases import Phase, ramp

MAGNITUDES = (1, 4, 10, 17, 30)


def picture(height=24, width=36):
    """A smooth picture with a little noise: every value occurs, neighbours are alike."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / (width - 1), 255 * y / (height - 1), 127 + 100 * np.sin(x / 5 + y / 7)]
    noise = np.random.default_rng(0).integers(-9, 10, (height, width, 3))
    return np.clip(np.stack(channels, -1) + noise, 0, 255).astype("uint8")


def apply(name, image, magnitude, sign=1.0, place=(0.5, 0.5)):
    place = tf.constant(place, tf.float32)
    return OPERATIONS[name](tf.constant(image), magnitude, tf.constant(sign), place).numpy()


# ---------------------------------------------------------------------------------- RandAugment

# name -> (picture, magnitude) -> picture; numbers at magnitude 10 are those of arXiv 1909.13719's code
BY_PILLOW = {
    "autocontrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
    "invert": lambda image, m: ImageOps.invert(image),
    "posterize": lambda image, m: ImageOps.posterize(image, min(8, max(1, int(4 * m / 10)))),
    "solarize": lambda image, m: ImageOps.solarize(image, int(256 * m / 10)),
    "color": lambda image, m: ImageEnhance.Color(image).enhance(1.8 * m / 10 + 0.1),
    "contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1.8 * m / 10 + 0.1),
    "brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1.8 * m / 10 + 0.1),
    "sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1.8 * m / 10 + 0.1),
}
EXACT = ("equalize", "invert", "posterize", "solarize")


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", BY_PILLOW)
def test_colours_are_pillows(name, magnitude):
    image = picture()
    wanted = np.asarray(BY_PILLOW[name](Image.fromarray(image), magnitude), int)
    # Pillow rounds the picture it blends with, which a factor multiplies
    tolerance = 0 if name in EXACT else 1 + abs(0.18 * magnitude + 0.1 - 1)
    np.testing.assert_allclose(apply(name, image, magnitude).astype(int), wanted, atol=tolerance)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_solarize_add(magnitude):
    image = picture().astype(int)
    wanted = np.where(image < 128, image + min(128, 11 * magnitude), image).clip(0, 255)
    np.testing.assert_array_equal(apply("solarize_add", picture(), magnitude), wanted)


def moved(image, source):
    """`image` at `(row, column) = source(rows, columns)`, grey outside; and where that is sure."""
    places = source(*np.mgrid[: image.shape[0], : image.shape[1]])
    row, column = (np.rint(x).astype(int) for x in places)
    inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    sure = np.all([np.abs(x % 1 - 0.5) > 1e-3 for x in places], 0)  # not between two pixels
    return np.where(inside[..., None], image[row, column], 128), sure


BY_FORMULA = {
    "shear_x": lambda m: lambda row, column: (row, column + 0.03 * m * row),
    "shear_y": lambda m: lambda row, column: (row + 0.03 * m * column, column),
    "translate_x": lambda m: lambda row, column: (row, column - 36 * m / 30),
    "translate_y": lambda m: lambda row, column: (row - 24 * m / 30, column),
}


@pytest.mark.parametrize("magnitude", (-17, -4, 0, 1, 10, 30))
@pytest.mark.parametrize("name", BY_FORMULA)
def test_moves(name, magnitude):
    image = picture()
    ours = apply(name, image, abs(magnitude), -1.0 if magnitude < 0 else 1.0)
    wanted, sure = moved(image, BY_FORMULA[name](magnitude))
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(ours[sure], wanted[sure])


@pytest.mark.parametrize("side", (30, 90))
def test_translation_is_a_part_of_the_side(side):
    image = picture(side, side)
    ours, third = apply("translate_x", image, 10), side // 3
    np.testing.assert_array_equal(ours[:, third:], image[:, :-third])
    assert (ours[:, :third] == 128).all()


@pytest.mark.parametrize("quarters", (1, 2, 3, 4))
def test_rotation_by_right_angles(quarters):
    image = picture(24, 24)
    ours = augment.rotate(tf.constant(image), tf.constant(90.0 * quarters)).numpy()
    np.testing.assert_array_equal(ours, np.rot90(image, quarters))


@pytest.mark.parametrize("sign", (1, -1))
def test_rotation_is_30_degrees_at_magnitude_10(sign):
    image = picture(60, 90)
    wanted = Image.fromarray(image).rotate(30 * sign, fillcolor=(128, 128, 128))
    ours = apply("rotate", image, 10, float(sign))
    assert np.mean(np.any(ours != np.asarray(wanted), -1)) < 0.02  # ties between two pixels


def test_cutout_is_a_grey_square():
    # half side 40 pixels of 300 at magnitude 10
    image = picture(60, 90)
    wanted = image.copy()
    wanted[30 - 8 : 30 + 8, 45 - 8 : 45 + 8] = 128
    np.testing.assert_array_equal(apply("cutout", image, 10), wanted)
    at_the_corner = image.copy()
    at_the_corner[:8, :8] = 128
    np.testing.assert_array_equal(apply("cutout", image, 10, place=(0.0, 0.0)), at_the_corner)


@pytest.mark.parametrize("name", ("rotate", *BY_FORMULA, "cutout"))
def test_moves_of_no_distance_change_nothing(name):
    np.testing.assert_array_equal(apply(name, picture(), 0), picture())


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_flat_pictures(name):
    for image in (np.zeros((5, 4, 3)), np.full((7, 3, 3), 255)):
        for magnitude in (0, 30):
            ours = apply(name, image.astype("uint8"), magnitude)
            assert ours.shape == image.shape and ours.dtype == np.uint8


def test_operations_are_drawn_uniformly():
    image = np.arange(48, dtype="uint8").reshape(4, 4, 3)  # dark: only `invert` makes 255 - image
    step = tf.function(lambda seed: augment.randaugment(tf.constant(image), 9.0, seed, layers=1))
    outputs = [step(tf.constant([3, i])).numpy() for i in range(640)]
    inverted = sum(np.array_equal(output, 255 - image) for output in outputs)
    assert 40 - 4 * 6.2 < inverted < 40 + 4 * 6.2  # of 640 / 16, four standard deviations


# ---------------------------------------------------------------------------------- AutoAugment


def test_pairs_are_applied_in_turn(monkeypatch):
    pair = (("posterize", 1.0, 6), ("autocontrast", 1.0, 7))
    monkeypatch.setattr(augment, "POLICY", (pair,))
    wanted = ImageOps.autocontrast(ImageOps.posterize(Image.fromarray(picture()), 2))
    changed = augment.autoaugment(tf.constant(picture()), (1, 2))
    np.testing.assert_allclose(changed.numpy().astype(int), np.asarray(wanted, int), atol=1)


def test_pairs_and_operations_have_their_probabilities(monkeypatch):
    rows = ((("invert", 0.4, 0), ("invert", 0.0, 0)), (("invert", 1.0, 0), ("invert", 1.0, 0)))
    monkeypatch.setattr(augment, "POLICY", rows)
    black = tf.zeros((2, 2, 3), tf.uint8)
    seeds = tf.stack([tf.range(4000), tf.range(4000)], 1)
    changed = tf.map_fn(lambda seed: augment.autoaugment(black, seed), seeds, tf.uint8).numpy()
    assert set(np.unique(changed)) == {0, 255}
    # one row in two, there in four of ten; twice inverted is black again
    assert (changed[:, 0, 0, 0] == 255).mean() == pytest.approx(0.2, abs=0.02)


def test_small_networks_are_trained_with_the_policy():
    recipe = recipes.get("imagenet1k", "EfficientNetV2B0")
    settings = recipes.augment_of(recipe, recipe.phases[0])
    assert settings.autoaugment and not settings.randaugment
    changed = augment.augment_image(tf.constant(picture()), settings, (3, 4))
    assert changed.shape == (24, 36, 3) and changed.dtype == tf.uint8
    assert not recipes.get("imagenet1k", "EfficientNetV2S").autoaugment


# ---------------------------------------------------------------------------------- one picture


def test_a_picture_depends_on_its_seed_alone():
    strong = Augment(randaugment=15, erasing=0.5, cutout=0.1)
    image = tf.constant(picture())
    compiled = tf.function(lambda seed: augment.augment_image(image, strong, seed))
    outputs = [compiled(tf.constant([0, i])).numpy() for i in range(8)]
    again = tf.function(lambda seed: augment.augment_image(image, strong, seed))
    for i in reversed(range(8)):
        np.testing.assert_array_equal(again(tf.constant([0, i])), outputs[i])
    assert len({output.tobytes() for output in outputs}) == 8


def test_no_strength_changes_nothing_and_half_are_mirrored():
    image, count = picture(), 200
    off = Augment(flip=False)
    np.testing.assert_array_equal(augment.augment_image(image, off, [0, 1]), image)
    flip = tf.function(lambda seed: augment.augment_image(tf.constant(image), Augment(), seed))
    outputs = [flip(tf.constant([0, i])).numpy() for i in range(count)]
    mirrored = sum(np.array_equal(output, image[:, ::-1]) for output in outputs)
    plain = sum(np.array_equal(output, image) for output in outputs)
    assert mirrored + plain == count and abs(mirrored - count / 2) < 4 * np.sqrt(count / 4)


def test_crops_have_the_asked_area_and_aspect():
    height, width = 300, 400
    draw = tf.function(lambda seed: augment.crop_box((height, width, 3), (0.2, 0.6), seed))
    boxes = np.array([draw(tf.constant([5, i])) for i in range(200)])
    top, left, rows, columns = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()
    area, aspect = rows * columns / (height * width), columns / rows
    assert 0.19 < area.min() < 0.25 and 0.55 < area.max() < 0.61
    assert 0.74 < aspect.min() < 0.80 and 1.25 < aspect.max() < 1.35


@pytest.mark.parametrize("probability", (1.0, 0.3))
def test_erasing_is_a_box_of_noise(probability):
    image = tf.fill((60, 60, 3), tf.constant(7, tf.uint8))
    settings = Augment(flip=False, erasing=probability)
    step = tf.function(lambda seed: augment.augment_image(image, settings, seed))
    areas, noise = [], []
    for i in range(200):
        output = step(tf.constant([1, i])).numpy()
        changed = (output != 7).any(-1)
        if not changed.any():
            continue
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = output[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert changed.sum() >= 0.99 * box[..., 0].size  # a noise pixel may be 7, 7, 7
        areas.append(box[..., 0].size / 3600)
        noise.append(box.ravel())
        assert 0.25 < box.shape[0] / box.shape[1] < 4  # 0.3 to 1 / 0.3, in whole pixels
    assert abs(len(areas) / 200 - probability) <= 4 * np.sqrt(probability * (1 - probability) / 200)
    assert 0.015 < min(areas) < 0.06 and 0.27 < max(areas) < 0.345
    assert np.concatenate(noise).mean() == pytest.approx(127.5, abs=1)


# ------------------------------------------------------------------------------- mixing a batch


def flat_batch(count, side=16):
    """Pictures of one value each, and labels that name the picture: `labels @ values` is known."""
    values = np.linspace(0, 250, count).round()
    images = np.broadcast_to(values[:, None, None, None], (count, side, side, 3)).astype("uint8")
    return values, tf.constant(images), tf.eye(count)


@pytest.mark.parametrize("count", (2, 5, 8))
def test_mixup_labels_say_what_the_pixels_are(count):
    values, images, labels = flat_batch(count)
    mixed, labels = (x.numpy() for x in augment.mixup(images, labels, 0.8, [0, 1]))
    assert mixed.dtype == np.uint8
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    wanted = np.broadcast_to((labels @ values)[:, None, None, None], mixed.shape)
    np.testing.assert_allclose(mixed, wanted, atol=0.5 + 1e-3)
    assert len(set(labels.max(1).round(5))) > count // 2  # each picture has its own share


@pytest.mark.parametrize("count", (2, 5, 8))
def test_cutmix_labels_are_each_pictures_own_area(count):
    values, images, labels = flat_batch(count)
    mixed, labels = (x.numpy() for x in augment.cutmix(images, labels, 1.0, [0, 4]))
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), labels @ values, atol=1e-3)
    for i, image in enumerate(mixed[..., 0]):
        pasted = image != values[i]
        assert set(image[pasted]) <= {values[::-1][i]}
        rows, columns = pasted.any(1).sum(), pasted.any(0).sum()
        assert pasted.sum() == rows * columns  # one box
    assert len(set(labels[np.arange(count), np.arange(count)].round(5))) > 1


@pytest.mark.parametrize("concentration", (0.2, 1.0))
def test_mixup_shares_follow_the_beta_distribution(concentration):
    count = 4000
    labels = tf.tile([[1.0, 0.0]], (count // 2, 1))
    labels = tf.concat([labels, 1 - labels], 0)
    images = tf.zeros((count, 1, 1, 3), tf.uint8)
    _, mixed = augment.mixup(images, labels, concentration, [0, 1])
    shares = np.random.default_rng(0).beta(concentration, concentration, 100_000)
    wanted = np.quantile(np.maximum(shares, 1 - shares), (0.2, 0.5, 0.8))
    ours = np.quantile(mixed.numpy().max(1), (0.2, 0.5, 0.8))
    np.testing.assert_allclose(ours, wanted, atol=0.02)


def test_cutmix_boxes_have_the_drawn_area():
    """Area 1 - Beta(1, 1) before the picture's edge cuts it: checked where boxes are smallest."""
    count, side = 2000, 64
    images = np.zeros((count, side, side, 1), "uint8")
    images[: count // 2] = 1
    labels = tf.one_hot(images[:, 0, 0, 0], 2)
    _, mixed = augment.cutmix(tf.constant(images), labels, 1.0, [0, 1])
    pasted = 1 - np.sum(mixed.numpy() * labels.numpy(), 1)
    random = np.random.default_rng(0)
    length, centre = np.sqrt(random.random((100_000, 1))), random.random((100_000, 2))
    inside = np.minimum(centre + length / 2, 1) - np.maximum(centre - length / 2, 0)
    wanted = np.quantile(inside.prod(1), (0.2, 0.5, 0.8))
    np.testing.assert_allclose(np.quantile(pasted, (0.2, 0.5, 0.8)), wanted, atol=0.03)


@pytest.mark.parametrize("count", (1, 7, 8))
def test_half_of_a_batch_gets_each_mixing(count):
    values, images, labels = flat_batch(count)
    both = Augment(mixup=1.0, cutmix=1.0)
    mixed, labels = (x.numpy() for x in augment.mix(images, labels, both, [0, 1]))
    assert mixed.shape == images.shape and labels.shape == (count, count)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), labels @ values, atol=0.51)
    spread = np.ptp(mixed, axis=(1, 2, 3))
    assert not spread[: count // 2].any()  # blended: still of one value
    if count > 1:
        assert spread[count // 2 :].any()


def test_no_mixing_hands_the_batch_back():
    _, images, labels = flat_batch(3)
    assert augment.mix(images, labels, Augment(), [0, 1]) == (images, labels)


@pytest.mark.parametrize(
    "wrong", ({"randaugment": 31}, {"mixup": -1}, {"cutmix": -0.1}, {"crop_area": (0.5, 0.2)})
)
def test_a_setting_out_of_range_is_named(wrong):
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"`{name}`.*{str(value).strip('(').split(',')[0]}"):
        Augment(**wrong)


# -------------------------------------------------------------------------------------- preview


@pytest.mark.parametrize("count", (3, 12))
def test_preview_is_a_sheet_of_the_pictures(tmp_path, count):
    red, blue = (255, 0, 0), (0, 0, 255)
    pictures = np.array([red, blue, red] * (count // 3), "uint8")[:, None, None]
    split = data.Split(["a", "b"], [0, 1, 0] * (count // 3), np.tile(pictures, (1, 9, 9, 1)))
    phases = ramp(2, 2, image_size=(16, 32), mixup=(0.0, 1.0))
    augment.preview(split, phases, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        pixels = np.asarray(sheet.convert("RGB"))
    first, second = np.array_split(pixels, 2)
    for colour in (red, blue):
        assert (first == colour).all(-1).sum() > 1000
    red_and_blue = (second[..., 1] == 0) & (second[..., 0] > 20) & (second[..., 2] > 20)
    assert red_and_blue.sum() > 1000  # mixup, in the second phase alone


def test_preview_of_one_unnamed_phase_obeys_the_other_settings(tmp_path):
    half = np.zeros((9, 8, 8, 3), "uint8")
    half[:, :, :4] = (255, 0, 0)  # red left of black
    split = data.Split(["a", "b"], [0, 1, 0] * 3, half)
    still = Augment(flip=False, crop_area=(1.0, 1.0))
    augment.preview(split, (Phase(0, 1, image_size=8),), tmp_path / "s.png", 1, 0, still)
    with Image.open(tmp_path / "s.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    columns_of_red = np.nonzero((pixels == (255, 0, 0)).all(-1))[1]
    columns_of_black = np.nonzero((pixels == 0).all(-1).sum(0) > 50)[0]
    assert columns_of_red.mean() < columns_of_black.mean()
