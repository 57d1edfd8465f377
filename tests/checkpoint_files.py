"""Checkpoints of a tiny network in the layouts of others, written without this package."""

import io
import tarfile

import h5py
import numpy as np
import tensorflow as tf

# google/automl's scopes of the tiny network, by hand from its effnetv2_model.py
AUTOML = {
    "stem_conv": "stem/conv2d",
    "stem_bn": "stem/tpu_batch_normalization",
    "block1a_project_conv": "blocks_0/conv2d",
    "block1a_project_bn": "blocks_0/tpu_batch_normalization",
    "block2a_expand_conv": "blocks_1/conv2d",
    "block2a_expand_bn": "blocks_1/tpu_batch_normalization",
    "block2a_project_conv": "blocks_1/conv2d_1",
    "block2a_project_bn": "blocks_1/tpu_batch_normalization_1",
    "block2b_expand_conv": "blocks_2/conv2d",
    "block2b_expand_bn": "blocks_2/tpu_batch_normalization",
    "block2b_project_conv": "blocks_2/conv2d_1",
    "block2b_project_bn": "blocks_2/tpu_batch_normalization_1",
    "block3a_expand_conv": "blocks_3/conv2d",
    "block3a_expand_bn": "blocks_3/tpu_batch_normalization",
    "block3a_project_conv": "blocks_3/conv2d_1",
    "block3a_project_bn": "blocks_3/tpu_batch_normalization_1",
    "block4a_expand_conv": "blocks_4/conv2d",
    "block4a_expand_bn": "blocks_4/tpu_batch_normalization",
    "block4a_dwconv2": "blocks_4/depthwise_conv2d",
    "block4a_bn": "blocks_4/tpu_batch_normalization_1",
    "block4a_se_reduce": "blocks_4/se/conv2d",
    "block4a_se_expand": "blocks_4/se/conv2d_1",
    "block4a_project_conv": "blocks_4/conv2d_1",
    "block4a_project_bn": "blocks_4/tpu_batch_normalization_2",
    "block5a_expand_conv": "blocks_5/conv2d",
    "block5a_expand_bn": "blocks_5/tpu_batch_normalization",
    "block5a_dwconv2": "blocks_5/depthwise_conv2d",
    "block5a_bn": "blocks_5/tpu_batch_normalization_1",
    "block5a_se_reduce": "blocks_5/se/conv2d",
    "block5a_se_expand": "blocks_5/se/conv2d_1",
    "block5a_project_conv": "blocks_5/conv2d_1",
    "block5a_project_bn": "blocks_5/tpu_batch_normalization_2",
    "block5b_expand_conv": "blocks_6/conv2d",
    "block5b_expand_bn": "blocks_6/tpu_batch_normalization",
    "block5b_dwconv2": "blocks_6/depthwise_conv2d",
    "block5b_bn": "blocks_6/tpu_batch_normalization_1",
    "block5b_se_reduce": "blocks_6/se/conv2d",
    "block5b_se_expand": "blocks_6/se/conv2d_1",
    "block5b_project_conv": "blocks_6/conv2d_1",
    "block5b_project_bn": "blocks_6/tpu_batch_normalization_2",
    "block6a_expand_conv": "blocks_7/conv2d",
    "block6a_expand_bn": "blocks_7/tpu_batch_normalization",
    "block6a_dwconv2": "blocks_7/depthwise_conv2d",
    "block6a_bn": "blocks_7/tpu_batch_normalization_1",
    "block6a_se_reduce": "blocks_7/se/conv2d",
    "block6a_se_expand": "blocks_7/se/conv2d_1",
    "block6a_project_conv": "blocks_7/conv2d_1",
    "block6a_project_bn": "blocks_7/tpu_batch_normalization_2",
    "top_conv": "head/conv2d",
    "top_bn": "head/tpu_batch_normalization",
    "predictions": "head/dense",
}


def automl_tensors(model):
    """google/automl's names -> the arrays of a tiny network."""
    return {
        f"efficientnetv2-tiny/{AUTOML[layer.name]}/"
        f"{'depthwise_' if layer.name.endswith('dwconv2') else ''}{variable.name}": array
        for layer in model.layers
        for variable, array in zip(layer.weights, layer.get_weights(), strict=True)
    }


def write_automl(model, prefix):
    """A TF1 checkpoint as google/automl's, with averages, slots and a step counter."""
    tensors = automl_tensors(model)
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        for name, value in tensors.items():
            tf.compat.v1.get_variable(name, initializer=value)
            for suffix in ("/ExponentialMovingAverage", "/RMSProp"):
                tf.compat.v1.get_variable(name + suffix, initializer=value * 0)
        tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(prefix), write_meta_graph=False)


def write_hub(model, path):
    """A SavedModel with google/automl's variables and none of our files, as TF Hub's."""
    module = tf.Module()
    module.all = [tf.Variable(array, name=name) for name, array in automl_tensors(model).items()]
    module.step = tf.Variable(7, name="global_step")
    tf.saved_model.save(module, path)


def write_legacy(model, path):
    """Keras 2's HDF5."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{w.name}:0" for w in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name, data=value)


def drop_names(path):
    """As Keras' first files: layers by class and index alone."""
    with h5py.File(path, "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name", None)


def pack(folder, path, extra=()):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname="efficientnetv2-tiny")
        for member, content in extra:
            tar.addfile(member, io.BytesIO(content))


def flips(content):
    """The content with one byte changed, at places all over it."""
    for place in np.linspace(100, len(content) - 200, 40, dtype=int):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        yield flipped
