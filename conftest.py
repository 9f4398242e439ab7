"""Names that the doctests use."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import math

import keras
import numpy as np
import pytest

import tf_proxquant as pq


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(math=math, keras=keras, np=np, pq=pq, ops=keras.ops)
    doctest_namespace.update({name: getattr(pq, name) for name in pq.__all__})
    doctest_namespace.update(Linear=pq.schedules.Linear)
