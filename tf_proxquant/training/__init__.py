"""What train.py composes: settings, phases, export and report."""

from tf_proxquant.training.phases import strength_rate
from tf_proxquant.training.running import run
from tf_proxquant.training.settings import Settings

__all__ = ["Settings", "run", "strength_rate"]
