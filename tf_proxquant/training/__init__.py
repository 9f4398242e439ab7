"""What train.py composes: settings, phases, export and report."""

from tf_proxquant.training.console import interrupted, summary
from tf_proxquant.training.flagging import define_flags, flag_names
from tf_proxquant.training.image_settings import ImageSettings
from tf_proxquant.training.running import run
from tf_proxquant.training.settings import Settings
from tf_proxquant.training.text_settings import TextSettings
from tf_proxquant.training.workdir import recorded

__all__ = [
    "ImageSettings",
    "Settings",
    "TextSettings",
    "define_flags",
    "flag_names",
    "interrupted",
    "recorded",
    "run",
    "summary",
]
