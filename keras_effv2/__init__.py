"""EfficientNetV2 and CoAtNet for Keras 3."""
