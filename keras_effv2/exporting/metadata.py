"""What travels inside a TFLite or ONNX file: labels, size, crop, scaling, thresholds.

TFLite's metadata is a flat buffer of its own inside the model's, and an archive behind it with the
labels. MediaPipe's image classifier wants it, mean and deviation of the pixels above all: here 0 and 1,
as the model normalises 0..255 itself. Source: mediapipe/tasks/metadata/metadata_schema.fbs.
"""

import io
import json
import zipfile

import flatbuffers

from keras_effv2.model_files.runtimes import CARD

LABELS = "labels.txt"
# numbers of the schema
_AXIS_LABELS, _RGB, _IMAGE, _NORMALIZATION, _THRESHOLDING = 2, 1, 2, 1, 3


def into_onnx(path, card):
    """Writes a card into the properties of an ONNX file."""
    import onnx

    model = onnx.load(path)
    names = card.get("class_names") or ()
    onnx.helper.set_model_props(
        model,
        {
            CARD.removesuffix(".json"): json.dumps(card),
            "names": json.dumps(dict(enumerate(names))),
            "imgsz": json.dumps([card["image_size"]] * 2),
        },
    )
    onnx.save(model, path)


def into_tflite(content, card, channels):
    """The bytes of a TFLite model with metadata, and the archive behind it.

    Args:
        content: bytes of the model.
        card: What it says of itself.
        channels: Of a picture; MediaPipe knows three.
    """
    if channels == 3 and card["outputs"] != "features":
        content = _with_metadata(content, card)
    whole = io.BytesIO(content)
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(CARD, json.dumps(card, indent=1))
        archive.writestr(LABELS, "\n".join(card.get("class_names") or ()) + "\n")
    return whole.getvalue()


def _with_metadata(content, card):
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, buffer.data = "TFLITE_METADATA", list(_metadata(card))
    model.buffers.append(buffer)
    entry.buffer = len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


class _Writer(flatbuffers.Builder):
    """Writes tables by the numbers of their fields; what a table holds is written before it."""

    def table(self, *fields):
        """A table of `(slot, kind, value)`; a kind of None is what was written before."""
        self.StartObject(max(slot for slot, _, _ in fields) + 1)
        for slot, kind, value in fields:
            write = getattr(self, f"Prepend{kind or 'UOffsetTRelative'}Slot")
            write(slot, value, 0)
        return self.EndObject()

    def tables(self, *offsets):
        self.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.PrependUOffsetTRelative(offset)
        return self.EndVector()

    def floats(self, *numbers):
        self.StartVector(4, len(numbers), 4)
        for number in reversed(numbers):
            self.PrependFloat32(number)
        return self.EndVector()


def _metadata(card):
    """The flat buffer `ModelMetadata` of one image and its classes."""
    b = _Writer(1024)
    inputs, outputs = b.tables(_image(b, card["image_size"])), b.tables(_scores(b, card))
    graph = b.tables(b.table((2, None, inputs), (3, None, outputs)))
    name, about = b.CreateString(card["variant"]), b.CreateString("Written by keras_effv2.")
    least = b.CreateString("1.3.0")  # what a reader has to know
    b.Finish(
        b.table((0, None, name), (1, None, about), (3, None, graph), (7, None, least)), b"M001"
    )
    return bytes(b.Output())


def _image(b, side):
    """The input: a square in RGB of pixels 0..255, mean 0 and deviation 1."""
    name, about = b.CreateString("image"), b.CreateString("RGB, 0..255; normalised inside.")
    size = b.table((0, "Uint32", side), (1, "Uint32", side))
    content = b.table((0, "Uint8", _IMAGE), (1, None, b.table((0, "Int8", _RGB), (1, None, size))))
    mean, deviation = b.floats(0.0), b.floats(1.0)
    scaling = b.table((0, None, mean), (1, None, deviation))
    unit = b.tables(b.table((0, "Uint8", _NORMALIZATION), (1, None, scaling)))
    low, high = b.floats(0.0), b.floats(255.0)
    stats = b.table((0, None, high), (1, None, low))
    return b.table(
        (0, None, name), (1, None, about), (3, None, content), (4, None, unit), (5, None, stats)
    )


def _scores(b, card):
    """The output: its labels, and the score below which a reader leaves a class out."""
    labels, about = b.CreateString(LABELS), b.CreateString("Names of the classes.")
    file = b.tables(b.table((0, None, labels), (1, None, about), (2, "Int8", _AXIS_LABELS)))
    fields = [(0, None, b.CreateString("probability")), (6, None, file)]
    if card.get("unknown_below"):
        least = b.table((0, "Float32", card["unknown_below"]))
        unit = b.table((0, "Uint8", _THRESHOLDING), (1, None, least))
        fields.append((4, None, b.tables(unit)))
    return b.table(*fields)
