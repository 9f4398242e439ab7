"""ProxConnect: the lazy relatives, which remember all that the prox cuts off."""

from typing import Any

import keras

from tf_proxquant.optimizers.prox_quant import ProxQuant
from tf_proxquant.quantizers import Quantizer
from tf_proxquant.typing import JitCompile, Prox, Select, Strength


@keras.saving.register_keras_serializable("tf_proxquant")
class ProxConnect(ProxQuant):
    """`ProxQuant` with memory 1 and the hard map by default: the update is the same.

        v <- inner_optimizer(v, gradient at w)
        w <- prox(v)

    `prox` names the map, and with it the method:

        "hard"              w = quantizer(v)                    BinaryConnect, straight-through
        "l2", "relax"       w = (1 - theta) v + theta quantizer(v)    BinaryRelax
        "piecewise_affine"  w = prox_piecewise_affine(v, levels, inverse_slope)    PARQ
        "l1", "concave"     as in `ProxQuant`

    The model's own variables hold w, so `evaluate`, `save` and export see the quantized
    network; v lives in the optimizer's state and is saved with it.

    Args:
      inner_optimizer: any `keras.optimizers.Optimizer`, or the name of one.
      quantizer: a `Quantizer`.
      strength: as in `ProxQuant`; needed, except for "hard".
      prox: one of the names above. "l2" is BinaryRelax's map here, not `prox_l2`.
      memory: float in [0, 1], as in `ProxQuant`.
      select, clip, freeze_step, update_levels_every, jit_compile: as in `ProxQuant`.
      name: name of the optimizer.

    Raises: ValueError: as `ProxQuant`.

    Example:
      >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
      >>> model.compile(ProxConnect(keras.optimizers.Adam(0.01), Binary(), clip=1.0), loss="mse")

    References: Courbariaux et al., BinaryConnect, NeurIPS 2015; Yin et al., BinaryRelax,
      SIAM J. Imaging Sci. 2018; Dockhorn et al., ProxConnect, NeurIPS 2021; Jin et al.,
      PARQ, arXiv:2503.15748.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        quantizer: Quantizer,
        strength: Strength = None,
        *,
        prox: Prox = "hard",
        memory: float = 1.0,
        select: Select = None,
        clip: float | None = None,
        freeze_step: int | None = None,
        update_levels_every: int = 1,
        jit_compile: JitCompile = "auto",
        name: str = "prox_connect",
        **kwargs: Any,
    ):
        super().__init__(
            inner_optimizer,
            quantizer,
            strength,
            prox=prox,
            memory=memory,
            select=select,
            clip=clip,
            freeze_step=freeze_step,
            update_levels_every=update_levels_every,
            jit_compile=jit_compile,
            name=name,
            **kwargs,
        )

    @staticmethod
    def _map_name(prox):
        return "relax" if prox == "l2" else prox
