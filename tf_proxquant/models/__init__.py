"""Plain Keras models that the recipes train."""

from tf_proxquant.models.language import lstm_language_model, with_states
from tf_proxquant.models.resnet import resnet

__all__ = ["lstm_language_model", "resnet", "with_states"]
