"""Plain Keras models that the recipes train."""

from tf_proxquant.models.resnet import resnet

__all__ = ["resnet"]
