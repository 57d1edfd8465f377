"""What is sent to Kaggle and Hugging Face, with uploaders that only take notes."""

import os
import sys
import types

import pytest
from exported import LABELS, small

import keras_effv2 as kev
from keras_effv2 import cli, exporting


def test_publish(tmp_path, monkeypatch):
    hub = kev.export_hub(small(), tmp_path / "hub", labels=LABELS)
    on_disk = {
        os.path.relpath(os.path.join(root, name), hub): os.path.getsize(os.path.join(root, name))
        for root, _, names in os.walk(hub)
        for name in names
    }
    sent = []
    kaggle = types.SimpleNamespace(model_upload=lambda *given: sent.append(given))
    made = []
    face = types.SimpleNamespace(
        create_repo=lambda name, exist_ok: made.append(name),
        upload_folder=lambda **given: sent.append(given),
    )
    for module, value in (("kagglehub", kaggle), ("huggingface_hub", face)):
        monkeypatch.setitem(sys.modules, module, None)  # not installed
        to = "kaggle" if value is kaggle else "hf"
        assert dict(exporting.publish(hub, to, "me/flowers")) == on_disk
        with pytest.raises(
            ImportError, match=rf"needs {module}: pip install 'keras_effv2\[publish\]'"
        ):
            exporting.publish(hub, to, "me/flowers", dry_run=False)
        monkeypatch.setitem(sys.modules, module, value)
        assert dict(exporting.publish(hub, to, "me/flowers")) == on_disk and not sent
        exporting.publish(hub, to, "me/flowers", dry_run=False)
        assert "me/flowers" in str(sent.pop()) and not sent
    assert made == ["me/flowers"]
    monkeypatch.setattr(kaggle, "model_upload", lambda *_: 1 / 0)
    with pytest.raises(OSError, match="me/flowers could not be uploaded: .*logged in"):
        exporting.publish(hub, "kaggle", "me/flowers", dry_run=False)
    # a dry run leaves the export, the next command sends it
    command = ["export", "--output=" + hub, "--publish=hf", "--handle=me/flowers", "--nodry_run"]
    assert cli.main(command) == 0 and "me/flowers" in str(sent.pop())
    with pytest.raises(ValueError, match="'kaggle' or 'hf'.*'ftp'"):
        exporting.publish(hub, "ftp", "me/flowers")
    with pytest.raises(FileNotFoundError, match="export_hub first"):
        exporting.publish(tmp_path, "hf", "me/flowers")
