"""What tensorflow-datasets has prepared in a folder, or prepares when asked to."""

import os
import pathlib


def root_of(data_dir):
    """The folder of tensorflow-datasets: `data_dir`, else $TFDS_DATA_DIR, else its default."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return pathlib.Path(root).expanduser()


def open_builder(name, root, versions, instead):
    """Opens the last of the prepared versions, or prepares the data set if there is none.

    Args:
      name: of the data set.
      root: folder to prepare it in.
      versions: sorted paths of `dataset_info.json`, one for each version that is there.
      instead: what to pass where tensorflow-datasets is not installed, for the error.

    Returns: (module tensorflow_datasets, builder).
    Raises: ValueError: if tensorflow-datasets is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"'{name}' needs tensorflow-datasets ({error}). Run: "
            f"pip install 'tf_proxquant[datasets]', or pass {instead}."
        ) from error
    if versions:
        return tfds, tfds.builder_from_directory(versions[-1].parent)
    builder = tfds.builder(name, data_dir=root)
    builder.download_and_prepare()
    return tfds, builder
