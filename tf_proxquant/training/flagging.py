"""The flags of train.py, made from the fields of the settings."""

import dataclasses
import typing

from absl import flags

from tf_proxquant.training.image_settings import ImageSettings
from tf_proxquant.training.text_settings import TextSettings


def flag_names():
    """Names of all settings, of images and of text."""
    return list({**_fields(ImageSettings), **_fields(TextSettings)})


def define_flags(values, module):
    """Defines a flag for each setting; one that is not given has the value None.

    Args:
      values: `absl.flags.FlagValues`.
      module: name of the module whose --help shows the flags; a group of its own, which --helpfull
        shows, is a module to absl.
    """
    images, text = _fields(ImageSettings), _fields(TextSettings)
    for name in flag_names():
        field = images.get(name) or text[name]
        group = field.metadata["group"]
        shown_by = f"{module}, {group}" if group else module
        flags.DEFINE_flag(
            _flag(name, field, _help(images.get(name), text.get(name))), values, shown_by
        )
        if not group:
            values.register_key_flag_for_module(shown_by, values[name])


def _fields(settings):
    return {field.name: field for field in dataclasses.fields(settings)}


def _flag(name, field, text):
    kinds = typing.get_args(field.type) or (field.type,)
    kind = next(each for each in kinds if each is not type(None))
    if kind is bool:
        return flags.BooleanFlag(name, None, text)
    parser = {str: flags.ArgumentParser, int: flags.IntegerParser, float: flags.FloatParser}[kind]
    return flags.Flag(parser(), None, name, None, text)


def _help(image, text):
    """The help of a setting, of both kinds where they differ."""
    if image is None:
        return f"lstm: {_said(text)}"
    if text is None or text.metadata["help"] == image.metadata["help"]:
        return _said(image)
    return f"{_said(image)} lstm: {_said(text)}"


def _said(field):
    said = field.metadata["help"]
    is_told = field.default is None or field.default is False
    return said if is_told else f"{said} Default: {field.default}."
