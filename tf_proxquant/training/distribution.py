"""Where a run trains: on one device, on the GPUs of one machine, or on many machines."""

import contextlib
import dataclasses

import keras


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes that train one model together, and which of them this one is.

    Attributes:
      index: int, 0 to count - 1; process 0, the chief, writes all files.
      count: int >= 1.
      devices: int >= 1, devices of each process that share its part of a batch.
    """

    index: int = 0
    count: int = 1
    devices: int = 1

    @property
    def is_chief(self):
        """Whether this process writes the files."""
        return self.index == 0

    @property
    def shard(self):
        """(index, count), for `datasets.Batches`."""
        return self.index, self.count


def join(settings):
    """Joins the processes that the settings name; waits until all are there.

    To be called before anything is computed: JAX wants to know the other processes first.

    Args:
      settings: `Settings`.

    Returns: (context to build and train in, `Processes`).
    Raises: ValueError: if the backend cannot do it, or the processes do not find each other.
    """
    distribution = getattr(settings, "distribution", "none")  # text trains on one device
    if distribution == "mirrored":
        return _mirrored(), Processes()
    if distribution == "data_parallel":
        return _data_parallel(settings)
    return contextlib.nullcontext(), Processes()


def _mirrored():
    _check_backend("mirrored", "tensorflow")
    import tensorflow

    return tensorflow.distribute.MirroredStrategy().scope()


def _data_parallel(settings):
    _check_backend("data_parallel", "jax")
    # Before `initialize`, which otherwise draws a seed of its own.
    keras.utils.set_random_seed(settings.seed)
    if settings.num_processes > 1:
        try:
            keras.distribution.initialize(
                settings.job_addresses, settings.num_processes, settings.process_id
            )
        except RuntimeError as error:
            raise ValueError(
                f"The processes did not find each other: {error}. Received: --job_addresses="
                f"{settings.job_addresses} --num_processes={settings.num_processes} --process_id="
                f"{settings.process_id}. Start each of them once, with the same addresses."
            ) from error
    devices = keras.distribution.list_devices()
    parallel = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    count = settings.num_processes
    return parallel.scope(), Processes(settings.process_id, count, len(devices) // count)


def _check_backend(distribution, backend):
    if keras.backend.backend() != backend:
        raise ValueError(
            f"--distribution={distribution} needs KERAS_BACKEND={backend}. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}."
        )
