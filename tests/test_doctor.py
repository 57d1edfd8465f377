"""Every trouble of a machine has its advice."""

import importlib.metadata

from keras_effv2 import doctor


def test_doctor_knows_what_to_do(monkeypatch, tmp_path):
    """Every trouble has its advice; nothing leaves the machine."""
    monkeypatch.delenv("KERAS_EFFV2_OFFLINE", raising=False)
    (tmp_path / "file").write_text("-")
    monkeypatch.setenv("KERAS_EFFV2_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(doctor, "HOSTS", (doctor.HOSTS[0], "http://127.0.0.1:9/hub"))
    wanted = ["no_such_package>=1", "pillow>=999", "numpy>=1", 'no_such_either>=2; extra == "hub"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    found = {check.name: check for check in doctor.examine(online=True)}
    troubles = {
        "cache": "KERAS_EFFV2_HOME",
        "http://127.0.0.1:9": "KERAS_EFFV2_MIRROR",
        "http://127.0.0.1:9/hub": "Check proxy and network",
        "no_such_package": "pip install 'no_such_package>=1'",
        "pillow": "pip install -U 'pillow>=999'",
    }
    assert {name for name, check in found.items() if not check.ok} == set(troubles)
    for name, advice in troubles.items():
        assert advice in found[name].advice
    assert found["no_such_either"].advice == "pip install 'keras_effv2[hub]', if you want it"
    assert "cannot be reached" in doctor._host("http://no host/").found
    monkeypatch.setenv("KERAS_EFFV2_OFFLINE", "1")
    monkeypatch.setenv("KERAS_EFFV2_MIRROR", "our server")
    found = {check.name: check for check in doctor.examine(online=True)}
    assert "forbidden" in found["network"].found
    assert "no address" in found["mirror"].found and not found["mirror"].ok


def test_minimums_are_those_of_the_metadata():
    names = {check.name for check in doctor.examine()}
    assert {"keras", "tensorflow", "numpy", "tensorflow-hub", "tf2onnx"} <= {
        name.replace("_", "-") for name in names
    }
    assert "pytest" not in names
