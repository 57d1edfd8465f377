"""`model.fit` with progressive learning on JAX, over so many forced devices of one CPU.

python tests/jax_fit.py DEVICES FILE.npz [FOLDER]: with a folder, Orbax checkpoints go there, and a
second call with a folder that has one goes on from it.
"""

import os
import sys

DEVICES, FILE, FOLDER = int(sys.argv[1]), sys.argv[2], (*sys.argv[3:], None)[0]
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"

import conftest  # noqa: E402
import jax  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_effv2 as kev  # noqa: E402


class Stop(keras.callbacks.Callback):
    """Ends the first half of a run."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 0


def build():
    keras.utils.set_random_seed(0)
    row = conftest.tiny_efficientnet_row()
    model = kev.efficientnet_v2.build(row, classes=4, weights=None)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "categorical_crossentropy")
    return model


def main():
    jax.config.update("jax_disable_most_optimizations", True)
    assert len(jax.devices()) == DEVICES
    if DEVICES > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 40, 40, 3), dtype="uint8")
    phases = kev.ramp(2, 2, image_size=(32, 40), dropout=(0.1, 0.3))
    pl = kev.ProgressiveLearning(phases)
    model = build()
    dataset = pl.dataset((images, np.arange(32) % 4), batch_size=8)
    callbacks, done = [pl], 0
    if FOLDER:
        if os.path.isdir(FOLDER):
            model.optimizer.build(model.trainable_variables)  # else its slots are passed over
            model.load_weights(FOLDER)
            done = int(model.optimizer.iterations) // 4
        else:
            callbacks.append(Stop())
        callbacks.append(keras.callbacks.OrbaxCheckpoint(FOLDER))
    history = model.fit(
        dataset, epochs=pl.epochs, initial_epoch=done, callbacks=callbacks, shuffle=False, verbose=0
    )
    weights = [np.asarray(w) for w in model.get_weights()]
    np.savez(FILE, *weights, losses=history.history["loss"], first=done)


if __name__ == "__main__":
    main()
