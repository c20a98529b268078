"""Whether this Berth is compiled: the image's hot modules are, a clone's are not. Same source, same behaviour."""

from importlib.machinery import EXTENSION_SUFFIXES
from typing import Final

from berth import __version__, frame_template

COMPILED: Final = str(frame_template.__file__).endswith(tuple(EXTENSION_SUFFIXES))
FORM: Final = "compiled" if COMPILED else "interpreted"
VERSION_AND_FORM: Final = f"{__version__} ({FORM})"
