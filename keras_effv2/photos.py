"""How a photo becomes an input: read as people see it, cut and resized as a model was evaluated."""

import contextlib
import io
import os
import struct
import threading
import warnings

import numpy as np

from keras_effv2 import files

# A photo with more pixels than this is taken for an attack or an accident.
MAX_PIXELS = 178_000_000  # from here on Pillow refuses, too

# what Pillow raises for damaged files, but for ValueError
DAMAGE = (
    OSError,
    SyntaxError,
    EOFError,
    RuntimeError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    ZeroDivisionError,
)
_WARNINGS = threading.Lock()  # what is warned of is one setting for all threads


def read_image(source):
    """Reads a picture as people see it: rotated by its EXIF tag, in RGB, its first frame.

    JPEG, PNG, GIF, BMP, WebP and whatever else Pillow reads; grey, palette and CMYK pictures are
    converted, transparency is laid over white. White is the largest value that the format has: 65535
    of 16-bit grey, 4095 of a TIFF of 12 bits, 1.0 of floats.

    Args:
        source: Path, the bytes of a file, or an image of Pillow's.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no regular file or no picture, is damaged, has more than 178
            megapixels, or pixels whose white is not defined: integers of 32 bits, floats that leave
            0..1.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    given = contextlib.nullcontext(source) if isinstance(source, Image.Image) else None
    name = "The picture" if given or isinstance(source, bytes) else f"{source}"
    file = io.BytesIO(source) if isinstance(source, bytes) else given or files.open_regular(source)
    with file:
        try:
            with given or open_picture(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(
                        f"{name} has {image.width}x{image.height} pixels, more than "
                        f"{MAX_PIXELS // 10**6} megapixels. Scale it down first."
                    )
                white, inverted, deep = _white(image), _is_inverted(image), _is_deep(image)
                image.load()
                if deep and isinstance(image.info.get("transparency"), tuple):
                    image.info["transparency"] = tuple(v >> 8 for v in image.info["transparency"])
                with contextlib.suppress(*DAMAGE):  # an Exif block that cannot be read says nothing
                    image = ImageOps.exif_transpose(image)
                if image.mode.startswith("I") or image.mode == "F":
                    return _grey(image, white, inverted, name)
                return _rgb(image, name)
        except UnidentifiedImageError:
            raise ValueError(f"{name} is not a picture in a format that Pillow reads.") from None
        except Image.DecompressionBombError:
            raise ValueError(
                f"{name} has more than {MAX_PIXELS // 10**6} megapixels. Scale it down first."
            ) from None
        except DAMAGE as error:
            raise ValueError(f"{name} is damaged: {error}.") from None


def _white(image):
    """The value of white in a picture of deep grey, by its mode and format; None: not defined."""
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(258, (16,))[0] if image.format == "TIFF" else 16
        return 2**bits - 1
    if image.mode == "I":  # Pillow's mode of 16-bit PNG, before version 11, and of PGM
        return 65535 if image.format in ("PNG", "PPM") else None
    return 1.0 if image.mode == "F" else None


def _is_inverted(image):
    """Whether 0 is white, which Pillow leaves to us where grey is deep."""
    return image.format == "TIFF" and image.tag_v2.get(262) == 0


def _is_deep(image):
    """Whether Pillow takes the upper 8 of 16 bits: of the colours, but not of what is transparent."""
    return any("16" in str(tile[-1]) for tile in getattr(image, "tile", ()))


def _grey(image, white, inverted, name):
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if white is None or (white == 1.0 and not (low >= 0 and high <= 1)):
        what = "32-bit integers" if white is None else f"floats from {low:g} to {high:g}"
        raise ValueError(
            f"{name} has pixels that are {what}, whose white is not defined: save it in 8 or 16 "
            "bits, or as floats in 0..1."
        )
    grey = np.rint(pixels * (255.0 / white)).clip(0, 255).astype("uint8")
    grey = 255 - grey if inverted else grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(pixels == transparent, np.uint8(255), grey)
    return np.repeat(grey[..., None], 3, -1)


def _rgb(image, name):
    from PIL import Image

    try:
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.asarray(image.convert("RGB"))
    except ValueError:
        raise ValueError(
            f"{name} has pixels of mode {image.mode}, which Pillow does not convert to RGB: save it "
            "as RGB."
        ) from None


def is_picture(source):
    """Whether `read_image` reads something; Pillow need not be installed to know that it does not."""
    return isinstance(source, (str, bytes, os.PathLike)) or hasattr(source, "getexif")


def open_picture(file, formats=None):
    """`PIL.Image.open` without its warning of large pictures: ours are checked against a limit."""
    from PIL import Image

    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=formats)


def is_plain_jpeg(content):
    """Whether a plain JPEG decoder finds the pixels that `read_image` finds.

    The segments before the scan are walked: the picture is baseline or progressive, of 8 bits, grey
    or in three channels of usual sampling, and says nothing of its rotation (Exif, XMP) or of other
    colours (Adobe's marker).

    Args:
        content: The bytes of a file.
    """
    if content[:2] != b"\xff\xd8":
        return False
    at, framed = 2, False
    while content[at : at + 1] == b"\xff":
        code = content[at + 1] if at + 1 < len(content) else 0
        if code == 0xFF or code == 0x01 or 0xD0 <= code <= 0xD7:  # filling, and marks by themselves
            at += 1 if code == 0xFF else 2
            continue
        if code == 0xDA:  # the scan
            return framed
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : at + 2 + length]
        if length < 2 or (code == 0xEE and segment[:5] == b"Adobe"):
            return False
        if code == 0xE1 and (segment[:4] == b"Exif" or b"Orientation" in segment):
            return False
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            framed = code <= 0xC2 and (segment[:1], segment[5:]) in _FRAMES
            if not framed:
                return False
        at += 2 + length
    return False


# bits a value; number of channels and, for each, its id, sampling and table
_FRAMES = {
    (b"\x08", bytes((3, 1, luma, 0, 2, 0x11, chroma, 3, 0x11, chroma)))
    for luma in (0x11, 0x21, 0x22)
    for chroma in (0, 1)
} | {(b"\x08", bytes((1, 1, 0x11, 0)))}


def check_range(name, pixels):
    """Refuses pixels that are not 0..255, such as those of 16 bits or scaled to 0..1.

    Args:
        name: Of the argument.
        pixels: Array of finite numbers.

    Raises:
        ValueError: Says from where to where they go.
    """
    low, high = float(pixels.min()), float(pixels.max())
    scaled = pixels.dtype.kind not in "iu" and 0 < high <= 1
    if scaled or low < 0 or high > 255:
        raise ValueError(
            f"`{name}` has pixels 0..255. Received: {low:g} to {high:g}. Bring them to 0..255; all other "
            "scaling is done here."
        )


CROPS = ("none", "automl")
RESIZES = ("bilinear", "bicubic", "pillow-bicubic")


def check_geometry(crop, resize):
    """Refuses unknown names of crops and interpolations, and shares that are none."""
    share = isinstance(crop, float) and 0 < crop <= 1
    if not (share or crop in CROPS) or resize not in RESIZES:
        raise ValueError(
            f"`crop` is one of {', '.join(CROPS)}, or a share such as 0.95; `resize` is one of "
            f"{', '.join(RESIZES)}. Received: crop={crop!r}, resize={resize!r}."
        )


def prepare(image, image_size, crop="none", resize="bilinear"):
    """Cuts and resizes a picture the way a checkpoint was evaluated.

    Args:
        image: Array `(height, width, 3)`, 0..255.
        image_size: Side of the result in pixels.
        crop: `"none"`: the whole picture is squeezed into a square. `"automl"`: a centre square
            of side `int(image_size / (image_size + 32) * min(height, width))`. A share in (0, 1],
            as timm has it: the shorter side is resized to `image_size / crop`, then the centre cut.
        resize: `"bilinear"`, half-pixel centres without antialiasing as `tf.image.resize`; or
            `"bicubic"`, TF1's `resize_bicubic` (corner-aligned at zero, a = -0.75), with which
            the B variants were trained; or `"pillow-bicubic"`, Pillow's, which antialiases.

    Returns:
        float32 array `(image_size, image_size, 3)`, 0..255.

    Raises:
        ValueError: If `crop` or `resize` is unknown.

    Source: google/automl efficientnetv2 `preprocessing.py` and `preprocess_legacy.py`; timm
    `data/transforms_factory.py`.
    """
    check_geometry(crop, resize)
    top, left, height, width = crop_box(*image.shape[:2], image_size, crop)
    image = image[top : top + height, left : left + width]
    sides, start = resized_sides(height, width, image_size, crop)
    if resize == "pillow-bicubic":
        return _by_pillow(image, sides, start, image_size)
    for axis, source in enumerate((height, width)):
        places = np.arange(image_size) + start[axis]
        image = _along(axis, image, *RESIZERS[resize](places, source / sides[axis], source))
    return image.clip(0, 255).astype("float32", copy=False)


def crop_box(height, width, image_size, crop):
    """The part of a picture that is resized: `(top, left, height, width)` in pixels."""
    if crop != "automl":
        return 0, 0, height, width
    side = max(1, int(image_size / (image_size + 32) * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


def resized_sides(height, width, image_size, crop):
    """Height and width to which a part is resized, and where the square of `image_size` begins."""
    if not isinstance(crop, float):
        return (image_size, image_size), (0, 0)
    shorter = int(image_size / crop)
    sides = [shorter * side // min(height, width) for side in (height, width)]
    return sides, [round((side - image_size) / 2) for side in sides]


def _along(axis, image, sources, shares):
    """Resizes one axis: a position of the result is the sum of shares of pixels of the picture.

    Only these pixels are touched: a photo of twelve megapixels costs hardly more than a small one.
    """
    shares = shares.reshape(len(shares), *(-1 if a == axis else 1 for a in range(image.ndim)))
    return sum(
        image.take(pixels, axis) * share for pixels, share in zip(sources, shares, strict=True)
    )


def _bilinear(places, scale, source):
    """Half-pixel bilinear interpolation: `(2, n)` pixels and float32 shares for places of a result."""
    position = ((places + 0.5) * scale - 0.5).clip(0, source - 1)
    first = position.astype(int)
    distance = position - first
    return (
        np.stack([first, (first + 1).clip(0, source - 1)]),
        np.stack([1 - distance, distance]).astype("float32"),
    )


def _legacy_bicubic(places, scale, source):
    """TF1's bicubic interpolation, no half-pixel offset, a = -0.75: `(4, n)` each."""
    position = places * scale
    pixels = position.astype(int) + np.arange(-1, 3)[:, None]
    distance = np.abs(position - pixels)
    shares = np.where(
        distance <= 1,
        (1.25 * distance - 2.25) * distance**2 + 1,
        -0.75 * distance**3 + 3.75 * distance**2 - 6 * distance + 3,
    )
    return pixels.clip(0, source - 1), shares.astype("float32")


RESIZERS = {"bilinear": _bilinear, "bicubic": _legacy_bicubic}


def _by_pillow(image, sides, start, image_size):
    """The square from `start` on of what Pillow resizes a picture to.

    Of a strip it is so long that only the square is made, some values of which are rounded otherwise.
    """
    from PIL import Image

    picture = Image.fromarray(np.round(image).clip(0, 255).astype("uint8"))
    if sides[0] * sides[1] <= MAX_PIXELS:
        whole = picture.resize(sides[::-1], Image.Resampling.BICUBIC)
        down, right = start
        whole = np.asarray(whole, "float32")
        return whole[down : down + image_size, right : right + image_size]
    ends = np.array([start, np.add(start, image_size)])[:, ::-1]
    box = (ends * picture.size / np.array(sides[::-1])).clip(0, picture.size).ravel()
    size = (image_size, image_size)
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box), "float32")
