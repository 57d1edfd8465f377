"""How a picture becomes an input of a given model, and what its outputs are called."""

import keras
import numpy as np
import pytest
from made_pictures import encoded, noise
from PIL import Image

import keras_effv2 as kev
from keras_effv2 import imagenet, layers, photos

PIXELS = noise(3, 50, 70)


def test_a_picture_as_the_model_wants_it(tiny_effnet, tmp_path):
    """Path, bytes, image of Pillow's or array; side, crop and interpolation of its contract."""
    model = tiny_effnet()
    contract = layers.find_pixels(model)
    contract.image_size, contract.crop, contract.resize = 48, "automl", "bicubic"
    (tmp_path / "x.png").write_bytes(encoded(PIXELS))
    wanted = photos.prepare(PIXELS, 48, "automl", "bicubic")
    forms = (str(tmp_path / "x.png"), encoded(PIXELS), Image.fromarray(PIXELS), PIXELS)
    for picture in (tmp_path / "x.png", *forms):
        np.testing.assert_array_equal(kev.prepare_image(model, picture), wanted)
    assert kev.prepare_image(model, PIXELS, image_size=64).shape == (64, 64, 3)
    contract.image_size = None
    assert kev.prepare_image(model, PIXELS).shape == (layers.SIDE, layers.SIDE, 3)
    fixed = tiny_effnet(input_shape=(32, 32, 3))
    assert kev.prepare_image(fixed, PIXELS).shape == (32, 32, 3)


@pytest.mark.parametrize("picture", [PIXELS[..., 0], PIXELS[None], PIXELS[..., :1], "x" > "y"])
def test_what_is_no_picture(tiny_effnet, picture):
    with pytest.raises(ValueError, match=r"array \(height, width, 3\) of 0..255. Received: "):
        kev.prepare_image(tiny_effnet(), picture)


def test_models_that_take_no_such_pictures(tiny_effnet, tiny_coatnet):
    with pytest.raises(ValueError, match="include_preprocessing=False"):
        kev.prepare_image(tiny_effnet(include_preprocessing=False), PIXELS)
    with pytest.raises(ValueError, match="multiples of 32"):
        kev.prepare_image(tiny_coatnet(), PIXELS, image_size=40)


def test_names_of_outputs(tiny_effnet):
    assert kev.class_names(tiny_effnet(classes=3)) == ["class 0", "class 1", "class 2"]
    named = tiny_effnet(classes=2)
    layers.find_pixels(named).class_names = ("cat", "dog")
    assert kev.class_names(named) == ["cat", "dog"]
    base = tiny_effnet(include_top=False, pooling="avg")
    one = keras.Model(base.input, keras.layers.Dense(1, "sigmoid")(base.output))
    two = ["class 0", "class 1"]
    for names, said in ((None, two), (("cat", "dog"), ["cat", "dog"]), (("a", "b", "c"), two)):
        layers.find_pixels(one).class_names = names  # three are those of another head
        assert kev.class_names(one) == said
    assert kev.class_names(tiny_effnet(classes=1000))[388] == "giant_panda"
    assert kev.class_names(tiny_effnet(classes=1000)) == [n for _, n in imagenet.labels(1000)]


def test_imagenet12k_is_a_part_of_imagenet21k():
    some, all_ = imagenet.labels(11821), imagenet.labels(21843)
    assert len(some) == len(set(some)) == 11821
    places = {label: place for place, label in enumerate(all_)}
    assert [places[label] for label in some] == sorted(places[label] for label in some)
    # lines 1, 2, 5911 and 11821 of timm 1.0.31's data/_info/imagenet12k_synsets.txt
    assert [some[i][0] for i in (0, 1, 5910, 11820)] == [
        "n00005787",
        "n00006484",
        "n04049753",
        "n15102894",
    ]
    ((name, *_),) = imagenet.decode_predictions(np.eye(11821)[[11820]], top=1)
    assert name[:2] == some[-1]
    with pytest.raises(ValueError, match="1000, 11821 or 21843 classes"):
        imagenet.labels(12)


@pytest.mark.parametrize("kind", ("uint8", "int8", "int64", "float16"))
def test_outputs_of_any_numbers_are_ranked(kind):
    """Eight bits are what quantised networks give, and their least has no negative."""
    low = np.iinfo(kind).min if "int" in kind else -1
    scores = np.full((1, 1000), low, kind)
    scores[0, [388, 7]] = 100, 50
    ((first, second),) = imagenet.decode_predictions(scores, top=2)
    assert (first[1:], second[2]) == (("giant_panda", 100.0), 50.0)
