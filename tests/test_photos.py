"""Photos are read as people see them, by prediction and by the pipelines of training."""

import io
import os
import struct
import zlib
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from made_pictures import encoded, evaluated, jpeg, noise, numbered, smooth
from PIL import Image, ImageOps

from keras_effv2 import data, layers, photos
from keras_effv2.data import damage, decoding


def test_a_picture_of_a_hundred_megapixels_is_read(tmp_path):
    large = Image.new("1", (12_500, 8_000))
    large.save(tmp_path / "large.png")
    assert photos.read_image(tmp_path / "large.png").shape == (8_000, 12_500, 3)
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="178 megapixels. Scale it down first"):
        photos.read_image(tmp_path / "huge.png")


FILES = {
    "PNG": lambda x: encoded(x),
    "BMP": lambda x: encoded(x, "BMP"),
    "lossless WebP": lambda x: encoded(x, "WEBP", lossless=True),
    "grey PNG": lambda x: encoded(x[..., 0]),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_give_their_pixels(tmp_path, kind):
    pixels = noise(1, 20, 20)
    wanted = np.repeat(pixels[..., :1], 3, -1) if kind.startswith("grey") else pixels
    np.testing.assert_array_equal(evaluated(tmp_path, FILES[kind](pixels), 20), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(Image.fromarray(smooth()), exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_allclose(evaluated(tmp_path, content, 32), wanted, atol=6)
    np.testing.assert_array_equal(photos.read_image(Image.open(io.BytesIO(content))), wanted)


@pytest.mark.parametrize("mode", ("L", "P", "RGBA", "CMYK", "HSV", "I;16"))
def test_an_image_of_pillows_is_read_as_its_file(tmp_path, mode):
    """And stays what it is."""
    grey = Image.fromarray(smooth()[..., 0].astype("uint16") * 257)
    image = grey if mode == "I;16" else Image.fromarray(smooth()).convert(mode)
    wanted = smooth()[..., :1].repeat(3, -1) if mode == "I;16" else np.asarray(image.convert("RGB"))
    for _ in range(2):
        np.testing.assert_array_equal(photos.read_image(image), wanted)
    assert image.mode == mode


@pytest.mark.parametrize("mode", ("RGB", "L", "CMYK"))
def test_jpegs_of_all_kinds_are_read(tmp_path, mode):
    picture = Image.fromarray(smooth()).convert(mode)
    wanted = np.asarray(picture.convert("RGB"))
    np.testing.assert_allclose(evaluated(tmp_path, jpeg(picture), 32), wanted, atol=16)


def test_whatever_pillow_raises_is_damage(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(encoded(noise(1), "JPEG"))
    for error in (struct.error("short"), RuntimeError("codec"), KeyError(5)):
        monkeypatch.setattr(Image.Image, "convert", mock.Mock(side_effect=error))
        with pytest.raises(ValueError, match="x.jpg is damaged"):
            photos.read_image(tmp_path / "x.jpg")


# ------------------------------------------------ what training sees is what prediction sees


@tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((4,), tf.int32)])
def decoded(content, window):
    """The pixels that training finds in a file, and those of a window of it."""
    whole = decoding.decode(content, lambda shape: tf.stack([0, 0, shape[0], shape[1]]))
    return whole, decoding.decode(content, lambda _: window)


def assert_seen_alike(content):
    wanted = photos.read_image(content)
    height, width = wanted.shape[:2]
    top, left, height, width = height // 3, width // 4, -(-height // 2), -(-width // 2)
    whole, part = decoded(content, (top, left, height, width))
    np.testing.assert_array_equal(whole, wanted)
    np.testing.assert_array_equal(part, wanted[top : top + height, left : left + width])


def segment(code, payload):
    return bytes([0xFF, code]) + struct.pack(">H", len(payload) + 2) + payload


def rough(height, width):
    """Noise on blobs: neither is easy for a codec."""
    blobs = Image.fromarray(noise(4, height // 8 + 2, width // 8 + 2)).resize((width, height))
    shift = noise(5, height, width).astype(int) // 4 - 32
    return Image.fromarray((np.asarray(blobs) + shift).clip(0, 255).astype("uint8"))


@pytest.mark.parametrize("subsampling", (0, 1, 2))
@pytest.mark.parametrize("progressive", (False, True))
@pytest.mark.parametrize("size", ((1, 1), (7, 5), (67, 93), (121, 200)))
def test_plain_jpegs_are_decoded_to_the_same_bytes(size, progressive, subsampling):
    """By TensorFlow, of which a window is decoded alone, and by Pillow."""
    for quality in (30, 90):
        file = io.BytesIO()
        settings = {"progressive": progressive, "subsampling": subsampling, "quality": quality}
        rough(*size).save(file, "JPEG", **settings)
        assert photos.is_plain_jpeg(file.getvalue())
        assert_seen_alike(file.getvalue())


EXIF = Image.Exif()
EXIF[0x0112] = 6  # a quarter turn
TURNED = segment(0xE1, b"Exif\0\0" + EXIF.tobytes().removeprefix(b"Exif\0\0"))
XMP = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'
FAR = segment(0xE2, b"ICC_PROFILE\0\1\1" + b"\0" * 60_000)


def with_segments(*segments, mode="RGB"):
    plain = jpeg(rough(60, 100).convert(mode))
    return plain[:2] + b"".join(segments) + plain[2:]


def without_adobe(mode):
    content = jpeg(rough(60, 100).convert(mode))
    at = content.index(b"\xff\xee")
    return content[:at] + content[at + 2 + int.from_bytes(content[at + 2 : at + 4], "big") :]


def several_pictures():
    file = io.BytesIO()
    rough(60, 100).save(file, "MPO", save_all=True, append_images=[rough(30, 20)])
    return file.getvalue()


ODD = {
    "exif": lambda: with_segments(TURNED),
    "exif behind 60 KB": lambda: with_segments(FAR, TURNED),
    "exif behind 300 KB": lambda: with_segments(*[FAR] * 5, TURNED),
    "exif after filling": lambda: with_segments(FAR, b"\xff\xff\xff" + TURNED),
    "rotation in XMP": lambda: with_segments(segment(0xE1, XMP)),
    "the word alone": lambda: with_segments(segment(0xFE, b"Exif\0\0 and Adobe in a comment")),
    "CMYK": lambda: jpeg(rough(60, 100).convert("CMYK")),
    "CMYK without Adobe's marker": lambda: without_adobe("CMYK"),
    "grey": lambda: jpeg(rough(60, 100).convert("L")),
    "grey, turned": lambda: with_segments(FAR, TURNED, mode="L"),
    "several pictures": several_pictures,
    "channels called RGB": lambda: with_segments(segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")),
}


PLAIN = ("grey", "the word alone", "several pictures")


@pytest.mark.parametrize("kind", ODD)
def test_odd_jpegs_are_seen_alike(kind):
    content = ODD[kind]()
    assert_seen_alike(content)
    turned = "exif" in kind or "turned" in kind or "rotation" in kind
    assert photos.read_image(content).shape[:2] == ((100, 60) if turned else (60, 100))
    assert photos.is_plain_jpeg(content) == (kind in PLAIN)


def test_the_channels_of_ycck_are_turned_and_those_of_cmyk_not():
    """Adobe's marker says which; a decoder that does not ask swaps the colours."""
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    content = jpeg(red)
    assert_seen_alike(content)
    assert abs(photos.read_image(content).mean((0, 1)) - [255, 0, 0]).max() < 6


# ------------------------------------------------------------------------------ deep pictures


def png(grey, *extra):
    """A PNG of 16-bit grey, written by hand."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = grey.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)),
            *(chunk(*item) for item in extra),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))
WANTED = np.rint(RAMP * 255)


@pytest.mark.parametrize("top", (200, 255, 256, 4095, 65535))
def test_the_scale_of_16_bits_is_that_of_16_bits(top):
    """It does not hang on the brightest pixel."""
    values = np.rint(RAMP * top)
    pixels = photos.read_image(png(values))
    np.testing.assert_array_equal(pixels, np.repeat(np.rint(values / 257)[..., None], 3, -1))
    assert_seen_alike(png(values))


def test_transparent_16_bits_lie_over_white():
    values = np.rint(RAMP * 65535)
    pixels = photos.read_image(png(values, (b"tRNS", struct.pack(">H", 0))))[..., 0]
    assert (pixels[:, 0] == 255).all()
    np.testing.assert_array_equal(pixels[:, 1:], WANTED[:, 1:])


def saved(array, kind, **settings):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **settings)
    return file.getvalue()


def twelve_bits():
    """A TIFF of one strip of 12 bits a pixel, two pixels in three bytes."""
    values = np.rint(RAMP * 4095).astype(int)
    high, low = values[:, ::2], values[:, 1::2]
    strip = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], -1).astype("uint8")
    tags = [(256, 64), (257, 48), (258, 12), (259, 1), (262, 1), (273, 0), (277, 1), (278, 48)]
    tags.append((279, strip.size))
    start = 8 + 2 + 12 * len(tags) + 4
    rows = b"".join(
        struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows + bytes(4) + strip.tobytes()


DEEP = {
    "TIFF of 16 bits": lambda: saved(np.rint(RAMP * 65535).astype("uint16"), "TIFF"),
    "TIFF of 16 bits, 0 is white": lambda: saved(
        np.rint((1 - RAMP) * 65535).astype("uint16"), "TIFF", tiffinfo={262: 0}
    ),
    "TIFF of 12 bits": twelve_bits,
    "TIFF of floats": lambda: saved(RAMP.astype("float32"), "TIFF"),
    "PGM of 10 bits": lambda: b"P5 64 48 1023 " + np.rint(RAMP * 1023).astype(">u2").tobytes(),
    "JPEG 2000 of 16 bits": lambda: saved(np.rint(RAMP * 65535).astype("uint16"), "JPEG2000"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_pictures_are_seen_from_black_to_white(kind):
    pixels = photos.read_image(DEEP[kind]())
    assert pixels.shape == (48, 64, 3) and (np.ptp(pixels, axis=2) == 0).all()
    np.testing.assert_allclose(pixels[..., 0], WANTED, atol=1)
    assert_seen_alike(DEEP[kind]())


def test_palettes_and_grey_with_alpha_lie_over_white():
    grey = Image.fromarray(WANTED.astype("uint8"))
    alpha = Image.new("L", grey.size, 128)
    wanted = np.rint((WANTED * 128 + 255 * 127) / 255)
    layered = Image.merge("LA", (grey, alpha))
    for picture in (layered, layered.convert("RGBA")):
        pixels = photos.read_image(saved(np.asarray(picture), "PNG"))
        np.testing.assert_allclose(pixels[..., 0], wanted, atol=1)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=bytes((255, 0)))
    assert (photos.read_image(file.getvalue()) == 255).all()


REFUSED = {
    "32-bit integers": np.full((4, 4), 70_000, "int32"),
    "floats from 0 to 255": (WANTED).astype("float32"),
    "floats from -1 to 1": (2 * RAMP - 1).astype("float32"),
    "floats from nan to nan": np.full((4, 4), np.nan, "float32"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_white_is_refused_and_left_out_of_data(tmp_path, kind):
    (tmp_path / "x.tif").write_bytes(saved(REFUSED[kind], "TIFF"))
    with pytest.raises(ValueError, match=rf"x.tif has pixels that are {kind}, whose white is not"):
        photos.read_image(tmp_path / "x.tif")
    assert damage.hash_picture(str(tmp_path / "x.tif")) is None


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, what in (("pipe.jpg", "a pipe or a device"), ("", "a folder")):
        with pytest.raises(ValueError, match=f"is {what}, not a file"):
            photos.read_image(tmp_path / path)
    with pytest.raises(FileNotFoundError):
        photos.read_image(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize("wrong", ({"crop": "centre"}, {"resize": "nearest"}))
def test_unknown_geometry_is_refused_everywhere(wrong):
    split = numbered(4)
    for use in (
        lambda: photos.prepare(noise(1), 8, **wrong),
        lambda: split.eval_batches(image_size=4, batch_size=2, **wrong),
        lambda: layers.Pixels("128", **wrong),
    ):
        with pytest.raises(ValueError, match="one of none, automl.*one of bilinear, bicubic"):
            use()


def as_timm(picture, size, crop):
    """`timm.data.create_transform` for evaluation, in Pillow: resize, then cut the centre."""
    if crop == "none":
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), "float32")
    shorter, sides = int(size / crop), picture.size
    picture = picture.resize(
        [shorter if side == min(sides) else int(shorter * side / min(sides)) for side in sides],
        Image.Resampling.BICUBIC,
    )
    left, top = (round((side - size) / 2) for side in picture.size)
    return np.asarray(picture.crop((left, top, left + size, top + size)), "float32")


@pytest.mark.parametrize("size, crop", [(224, 0.95), (224, 0.9), (96, 0.875), (384, "none")])
def test_real_photos_are_cut_as_timm_does(size, crop, shared):
    paths = sorted((shared / "flowers" / "val").rglob("*.jpg"))[::80]
    split = data.Split(["a"], [0] * len(paths), [str(path) for path in paths])
    geometry = {"image_size": size, "crop": crop, "resize": "pillow-bicubic"}
    batch, *_ = next(iter(split.eval_batches(batch_size=len(paths), **geometry)))
    for path, image in zip(paths, batch.numpy(), strict=True):
        wanted = as_timm(Image.open(path).convert("RGB"), size, crop)
        assert np.abs(image - wanted).max() < 1
        assert np.abs(photos.prepare(photos.read_image(path), **geometry) - wanted).max() < 1


def test_a_strip_is_cut_without_its_length(monkeypatch):
    """3 x 60,000 pixels would become 235 x 4,700,000; the part that is made is that of the whole."""
    strip = np.tile(noise(0)[:3, :3], (1, 20_000, 1))
    for resize in photos.RESIZERS | {"pillow-bicubic": None}:
        assert photos.prepare(strip, 224, 0.95, resize).shape == (224, 224, 3)
    picture = np.asarray(Image.fromarray(noise(1)).resize((90, 60), Image.Resampling.BICUBIC))
    whole = photos.prepare(picture, 48, 0.875, "pillow-bicubic")
    monkeypatch.setattr(photos, "MAX_PIXELS", 0)
    part = photos.prepare(picture, 48, 0.875, "pillow-bicubic")
    np.testing.assert_allclose(part, whole, atol=2)


def test_a_share_is_above_0_and_not_above_1():
    for wrong in (0.0, 1.5, 1):
        with pytest.raises(ValueError, match="a share such as 0.95"):
            photos.check_geometry(wrong, "bilinear")
