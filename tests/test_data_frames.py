"""Labels in tables: what pandas reads is what is trained on, or one sentence says why not."""

import pathlib

import numpy as np
import pandas
import pytest
import tensorflow as tf
from made_pictures import encoded, noise

from keras_effv2 import data, files, stores


@pytest.fixture
def photos(tmp_path):
    """30 pictures in a folder `photos` beside the table that is to be written; their names."""
    (tmp_path / "photos").mkdir()
    names = [f"photos/{i}.png" for i in range(30)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(noise(i)))
    return names


def written(folder, text, name="table.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return f"csv:{folder / name}"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_any_separator_and_quoting(photos, tmp_path, separator):
    """Paths from the table's folder; a quoted label keeps its separator; 007 and NA stay text."""
    labels = [("cat; big, old", "NA", "007")[i % 3] for i in range(30)]
    frame = pandas.DataFrame({"File": photos, "note": "x", "Class": labels})
    text = frame.to_csv(sep=separator, index=False)
    whole = data.load(written(tmp_path, text), validation=0)
    assert whole.class_names == ("007", "NA", "cat; big, old") and whole.validation is None
    assert [whole.class_names[i] for i in whole.train.labels] == labels
    assert whole.train.pictures == [str(tmp_path / name) for name in photos]
    parts = data.load(written(tmp_path, text), validation=0.2)
    own = [set(split.pictures) for split in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, own)) == len(set.union(*own)) == 30 and len(own[1]) == len(own[2]) == 6


def test_a_label_has_one_way_to_be_written(photos, tmp_path, caplog):
    """Unicode's two ways to write an accent are one label; capitals are another, which is said."""
    labels = [("caf\u00e9", "cafe\u0301", "Caf\u00e9")[i % 3] for i in range(30)]
    frame = pandas.DataFrame({"image": photos, "label": labels})
    found = data.load(written(tmp_path, frame.to_csv(index=False)), validation=0)
    assert found.class_names == ("Caf\u00e9", "caf\u00e9")
    assert found.train.class_counts().tolist() == [10, 20]
    assert "classes 'Caf\u00e9' and 'caf\u00e9' differ only in case" in caplog.text


def test_a_picture_of_two_classes_is_named(photos, tmp_path, caplog):
    (tmp_path / photos[3]).write_bytes((tmp_path / photos[0]).read_bytes())
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(photos)]
    data.load(written(tmp_path, "\n".join(["image,label", *rows])))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("1 pictures are in two classes, such as ")
    assert f"{photos[3]} (b) and {tmp_path}/{photos[0]} (a)" in line


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_is_text_in_utf_8(tmp_path, encoding):
    (tmp_path / "table.csv").write_bytes("image,label\nx.png,caf\u00e9\n".encode(encoding))
    with pytest.raises(ValueError, match="is no text in UTF-8, see its byte"):
        data.load(f"csv:{tmp_path}/table.csv")


def test_a_table_and_its_pictures_in_a_store(photos, tmp_path):
    """Equal to the same here; paths from the table's folder, and addresses."""
    store = stores.Stored(f"ram://{tmp_path}")
    (store / "photos").send(tmp_path / "photos")
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(photos)]
    here = data.load(written(tmp_path, "\n".join(["image,label", *rows])))
    rows[0] = f"{store}/{rows[0]}"
    files.write_whole(store / "table.csv", "\n".join(["image,label", *rows]))
    there = data.load(f"csv:{store}/table.csv")
    for ours, theirs in ((here.train, there.train), (here.validation, there.validation)):
        images, labels = next(iter(theirs.eval_batches(batch_size=len(theirs), image_size=32)))[:2]
        expected, wanted = next(iter(ours.eval_batches(batch_size=len(ours), image_size=32)))[:2]
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, wanted)
    files.write_whole(store / "table.csv", "image,label\nnowhere.png,a\nphotos/1.png,b\n")
    with pytest.raises(ValueError, match="row 2: there is no picture ram://.*nowhere.png"):
        data.load(f"csv:{store}/table.csv")


def test_splits_that_are_given(photos, tmp_path):
    """`val` without `test` is looked at once: it becomes the test split, as of folders."""
    words = ["Train"] * 20 + ["valid"] * 10
    frame = pandas.DataFrame({"image": photos, "label": ["a", "b"] * 15, "split": words})
    parts = data.load(written(tmp_path, frame.to_csv(index=False)), validation=0.1)
    assert len(parts.test) == 10 and len(parts.train) == 18 and len(parts.validation) == 2
    assert parts.test.pictures == [str(tmp_path / name) for name in photos[20:]]


def test_a_frame_of_ones_own(photos, tmp_path, monkeypatch):
    """Paths from the working directory, or `pathlib.Path`; any index; columns by name."""
    monkeypatch.chdir(tmp_path)
    paths = [*photos[:15], *(pathlib.Path(tmp_path, name) for name in photos[15:])]
    frame = pandas.DataFrame({"path": paths, "target": np.arange(30) % 2}, index=range(100, 130))
    whole = data.load(frame, validation=0)
    assert whole.class_names == ("0", "1") and (whole.train.labels == np.arange(30) % 2).all()
    frame.loc[107, "target"] = None
    with pytest.raises(ValueError, match=r"table, row 107: the label \(target\) is blank"):
        data.load(frame.astype({"target": object}))


def test_columns_by_name(photos, tmp_path):
    frame = pandas.DataFrame({"photo of it": photos, "label": "no", "kind": ["a", "b"] * 15})
    spec = written(tmp_path, frame.to_csv(index=False))
    whole = data.load(f"{spec}?image=photo%20of%20it&label=kind", validation=0)
    assert whole.class_names == ("a", "b")
    assert data.resolved(whole.name) == whole.name


LISTS = {
    "|": ["cat|dog", "dog | 007", "", "cat"],
    ",": ["cat,dog", "dog, 007", "", "cat"],
    " ": ["cat dog", "dog  007", "", "cat"],
}


@pytest.mark.parametrize("separator", LISTS)
def test_several_labels_in_a_column(photos, tmp_path, separator):
    values = [LISTS[separator][i % 4] for i in range(30)]
    frame = pandas.DataFrame({"file": photos, "labels": values})
    whole = data.load(written(tmp_path, frame.to_csv(index=False)), validation=0)
    assert whole.class_names == ("007", "cat", "dog") and whole.train.several
    rows = [[0, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(whole.train.labels[:4], rows)
    np.testing.assert_array_equal(whole.train.class_counts(), [8, 15, 16])
    _, targets, _ = next(iter(whole.train.eval_batches(image_size=32, batch_size=4)))
    np.testing.assert_array_equal(targets, np.float32(rows))
    batch = whole.train.train_batches(image_size=32, batch_size=30)
    order = whole.train.order(0, 0)
    np.testing.assert_array_equal(next(iter(batch))[1], whole.train.labels[order])


def test_several_labels_in_columns_of_their_own(photos, tmp_path):
    """All that is 0 and 1 beside picture and split, or the columns that are named."""
    frame = pandas.DataFrame({"file": photos, "sun": [0, 1] * 15, "sea": [1, 1, 0] * 10})
    spec = written(tmp_path, frame.to_csv(index=False))
    for found in (data.load(spec, validation=0.1), data.load(f"{spec}?labels=sun,sea")):
        assert found.class_names == ("sun", "sea")
        own = [set(split.pictures) for split in (found.train, found.validation, found.test)]
        assert sum(map(len, own)) == len(set.union(*own)) == 30 and all(own)
    rows = dict(zip(found.train.pictures, found.train.labels, strict=True))
    for i, name in enumerate(photos):
        if (row := rows.get(str(tmp_path / name))) is not None:
            assert list(row) == [frame.sun[i], frame.sea[i]]


def test_an_index_that_is_written_along_is_no_label(photos, tmp_path):
    frame = pandas.DataFrame({"image": photos, "cat": [0, 1] * 15, "dog": [1, 1, 0] * 10})
    found = data.load(written(tmp_path, frame.to_csv()), validation=0)
    assert found.class_names == ("cat", "dog") and found.train.several


def test_damaged_pictures_are_left_out(photos, tmp_path, caplog):
    (tmp_path / photos[4]).write_bytes(b"no picture")
    frame = pandas.DataFrame({"file": photos, "label": ["a", "b"] * 15})
    spec = written(tmp_path, frame.to_csv(index=False))
    whole = data.load(spec, validation=0)
    assert len(whole.train) == 29 and whole.train.skipped == (str(tmp_path / photos[4]),)
    assert "1 damaged, unreadable" in caplog.text
    with pytest.raises(ValueError, match=r"table.csv, row 6: .*4.png is damaged"):
        data.load(spec, strict=True)


WRONG = {
    "image,label\n": "has no rows",
    "image,label\nphotos/0.png,a\nphotos/x.png,b\n": r"row 3: there is no picture .*photos/x.png. Paths start",
    "image,label\nphotos/0.png,a\n,b\n": r"row 3: the picture \(image\) is blank",
    "image,label\nphotos/0.png,a\nphotos/1.png,\n": r"row 3: the label \(label\) is blank",
    "image,label\nphotos/0.png,a\nphotos/1.png,a\n": r"has 1 label\(s\) \(a\); a classifier needs",
    "image,label,split\nphotos/0.png,a,train\nphotos/1.png,b,trian\n": "row 3: the split .*'trian'",
    "image,label,split\nphotos/0.png,a,val\nphotos/1.png,b,val\n": "has no training pictures",
    "image,label,split\nphotos/0.png,a,train\nphotos/1.png,b,val\n": "no training picture of 'b'",
    "picture of,label\nphotos/0.png,a\n": "no column that is called image, picture, .*picture of",
    "image,what\nphotos/0.png,a\nphotos/1.png,b\n": "no column that is called label, class,",
    "": "has no rows",
    "image,label\nphotos/0.png,a,\n": r"row 2: 3 cell.* where the head has 2 \(image, label\)",
    "image,label\n\n,\nphotos/0.png,a\nphotos/1.png,\n": "row 5: the label .* is blank",
    'image,label\nphotos/0.png,"a\nphotos/1.png,b\n': "row 3, cannot be read .*: unexpected end",
    'image,label\nphotos/0.png,"a\nphotos/1.png,b"\nphotos/2.png,c\n': "a label of several lines",
    "image,label,label\nphotos/0.png,a,b\n": "has two columns 'label'",
    "image,label\nphotos/0,a\nphotos/1,b\n": r"photos/0.png is there: write names with their endings",
    "image,label\nphotos\\0.png,a\nphotos\\1.png,b\n": r"photos/0.png is there: write / between folders",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_with_its_row(text, photos, tmp_path):
    with pytest.raises(ValueError, match=WRONG[text]):
        data.load(written(tmp_path, text))


def test_flags_of_a_table_are_checked(photos, tmp_path):
    spec = written(tmp_path, "image,label\nphotos/0.png,a\nphotos/1.png,b\n")
    with pytest.raises(ValueError, match="After a table's . stand image=, label= or labels="):
        data.load(f"{spec}?picture=image")
    with pytest.raises(ValueError, match="has no column 'no'; its columns: image, label"):
        data.load(f"{spec}?label=no")
    with pytest.raises(ValueError, match="the column 'label' is no label of 0 and 1"):
        data.load(f"{spec}?labels=label,image")
    with pytest.raises(FileNotFoundError, match="There is no table .*none.csv"):
        data.load(f"csv:{tmp_path}/none.csv")
    with pytest.raises(IsADirectoryError, match="is a folder, not a table. Give .* or folder:/"):
        data.load(f"csv:{tmp_path}/photos")


def test_rows_of_0_and_1_are_given_as_such():
    pictures = np.zeros((3, 8, 8, 3), "uint8")
    rows = [[0, 1], [1, 1], [0, 0]]
    split = data.Split(("a", "b"), rows, pictures, several=True)
    assert split.select([1]).labels.tolist() == [[1, 1]]
    assert (
        split.fingerprint()
        != data.Split(("a", "b"), rows[::-1], pictures, several=True).fingerprint()
    )
    with pytest.raises(ValueError, match="or several=True where a picture has any number"):
        data.Split(("a", "b"), rows, pictures)
    with pytest.raises(ValueError, match="are 0 and 1. Received 2 .picture 1"):
        data.Split(("a", "b"), [[0, 1], [2, 0], [0, 0]], pictures, several=True)
    with pytest.raises(ValueError, match=r"array of 0 and 1, \(n, 2\). Received: int64 \(3,\)"):
        data.Split(("a", "b"), [0, 1, 1], pictures, several=True)
    assert tf.reduce_sum(next(iter(split.eval_batches(image_size=8, batch_size=3)))[1]) == 3


def test_whole_numbers_keep_their_order_and_a_missing_cell_its_row(photos, tmp_path):
    labels = [*range(12)] * 2
    frame = pandas.DataFrame({"image": [str(tmp_path / name) for name in photos[:24]]})
    frame["label"] = labels
    found = data.load(frame, validation=0)
    assert found.class_names == tuple(map(str, range(12)))
    np.testing.assert_array_equal(found.train.labels, labels)
    frame["label"] = frame["label"].astype("string")
    frame.loc[3, "label"] = pandas.NA
    with pytest.raises(ValueError, match="row 4: the label .label. is blank"):
        data.load(frame, validation=0)
