"""What travels inside a TFLite or ONNX file: labels, size, crop, scaling, thresholds.

TFLite's metadata is a flat buffer of its own inside the model's, and an archive behind it with the
labels. MediaPipe's image classifier wants it, mean and deviation of the pixels above all: here 0 and 1,
as the model normalises 0..255 itself. Source: mediapipe/tasks/metadata/metadata_schema.fbs.
"""

import io
import json
import zipfile

import flatbuffers

CARD, LABELS = "keras_effv2.json", "labels.txt"
# numbers of the schema
_AXIS_LABELS, _RGB, _IMAGE, _NORMALIZATION, _THRESHOLDING = 2, 1, 2, 1, 3
_IDENTIFIER = b"M001"


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


def into_tflite(content, card, channels=3):
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


def _metadata(card):
    """The flat buffer `ModelMetadata` of one image and its classes."""
    b = flatbuffers.Builder(1024)

    def text(words):
        return b.CreateString(words)

    def table(*fields):
        """A table of `(slot, kind, value)`."""
        b.StartObject(max(slot for slot, _, _ in fields) + 1)
        for slot, kind, value in fields:
            getattr(b, f"Prepend{kind}Slot")(slot, value, None if kind == "Int8" else 0)
        return b.EndObject()

    def tables(*offsets):
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return b.EndVector()

    def floats(*numbers):
        b.StartVector(4, len(numbers), 4)
        for number in reversed(numbers):
            b.PrependFloat32(number)
        return b.EndVector()

    name, about = text("image"), text("RGB, 0..255; normalised inside.")
    side = card["image_size"]
    size = table((0, "Uint32", side), (1, "Uint32", side))
    image = table((0, "Int8", _RGB), (1, "UOffsetTRelative", size))
    content = table((0, "Uint8", _IMAGE), (1, "UOffsetTRelative", image))
    mean, deviation = floats(0.0), floats(1.0)
    scaling = table((0, "UOffsetTRelative", mean), (1, "UOffsetTRelative", deviation))
    units = tables(table((0, "Uint8", _NORMALIZATION), (1, "UOffsetTRelative", scaling)))
    low, high = floats(0.0), floats(255.0)
    stats = table((0, "UOffsetTRelative", high), (1, "UOffsetTRelative", low))
    given = table(
        (0, "UOffsetTRelative", name),
        (1, "UOffsetTRelative", about),
        (3, "UOffsetTRelative", content),
        (4, "UOffsetTRelative", units),
        (5, "UOffsetTRelative", stats),
    )
    labels, what = text(LABELS), text("Names of the classes.")
    file = tables(
        table(
            (0, "UOffsetTRelative", labels),
            (1, "UOffsetTRelative", what),
            (2, "Int8", _AXIS_LABELS),
        )
    )
    fields = [(0, "UOffsetTRelative", text("probability")), (6, "UOffsetTRelative", file)]
    if card.get("unknown_below"):
        least = table((0, "Float32", card["unknown_below"]))
        unit = table((0, "Uint8", _THRESHOLDING), (1, "UOffsetTRelative", least))
        fields.append((4, "UOffsetTRelative", tables(unit)))
    wanted = table(*fields)
    inputs, outputs = tables(given), tables(wanted)
    graph = tables(table((2, "UOffsetTRelative", inputs), (3, "UOffsetTRelative", outputs)))
    title, about = text(card["variant"]), text("Written by keras_effv2.")
    needed = text("1.3.0")
    root = table(
        (0, "UOffsetTRelative", title),
        (1, "UOffsetTRelative", about),
        (3, "UOffsetTRelative", graph),
        (7, "UOffsetTRelative", needed),
    )
    b.Finish(root, _IDENTIFIER)
    return bytes(b.Output())
