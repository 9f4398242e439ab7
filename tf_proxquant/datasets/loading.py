"""Image data sets by name or path, in whatever form they are."""

import pathlib
from collections.abc import Callable
from typing import Any

from tf_proxquant.datasets import catalogue, folders, images
from tf_proxquant.datasets.images import Images
from tf_proxquant.typing import PathLike, Resize


def load(
    name: str,
    data_dir: PathLike | None = None,
    download: bool = False,
    *,
    image_size: tuple[int, int] | None = None,
    resize: Resize = "stretch",
    skip_broken: bool = False,
    progress: Callable | None = None,
) -> Images:
    """Loads an image data set: arrays into memory, files of pictures only by name.

    Args:
      name: "digits" (1,797 images of 8 x 8, part of this package); the path of a .npz file, of a
        folder of IDX files, or of a folder of pictures, one folder a class (see
        `folders.from_folder`); or the name of a set of tensorflow-datasets with the features
        "image" and "label", such as "cifar10".
      data_dir: where a named data set is: a .npz file with x_train, y_train, x_test and
        y_test, a folder of IDX files (plain or .gz), or a tensorflow-datasets folder. None =
        $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      download: True lets tensorflow-datasets download what it does not find.
      image_size: (height, width), of pictures; by default their own where all have the same.
      resize: of pictures of other sizes: "stretch", "crop" or "pad", see `read_picture`.
      skip_broken: True leaves out the files of a folder that are no readable picture.
      progress: function (number of pictures checked, number of all), called now and then.

    Returns: `Images`.
    Raises: ValueError: for an unknown name, data that is not there and must not be
      downloaded, and files whose contents do not fit.
    """
    source = pathlib.Path(data_dir or name).expanduser()
    pictures: dict[str, Any] = {"image_size": image_size, "resize": resize, "progress": progress}
    if data_dir is None and source.is_dir() and not images.is_idx(source):
        return folders.from_folder(source, skip_broken=skip_broken, **pictures)
    is_arrays = source.suffix == ".npz" or (source.is_dir() and images.is_idx(source))
    is_digits = name == "digits" and data_dir is None
    if not is_digits and not is_arrays:
        return catalogue.load_prepared(name, data_dir, download, **pictures)
    if image_size is not None:
        raise ValueError(
            "An image size is for pictures: arrays are taken in their own. Received: "
            f"image_size={image_size} for '{source}'."
        )
    if is_digits:
        return images.digits()
    if source.suffix == ".npz":
        return images.from_npz(source, name if data_dir else source.stem)
    return images.from_idx(source, name if data_dir else source.name)
