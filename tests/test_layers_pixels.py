"""The contract of a model and its files."""

import pytest


def test_contract_of_a_file_is_checked(tiny_effnet, tmp_path):
    tiny_effnet(pixels="128").save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="made for pixels='128'.*pixels='127.5'"):
        tiny_effnet(pixels="127.5").load_weights(tmp_path / "a.weights.h5")
