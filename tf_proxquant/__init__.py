"""ProxQuant for Keras 3: train low-precision networks, export them to LiteRT."""

__version__ = "0.1.0"
