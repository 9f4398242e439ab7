"""What train.py composes: settings, phases, export and report."""

from tf_proxquant.training.running import run
from tf_proxquant.training.settings import Settings

__all__ = ["Settings", "run"]
