"""Finds, imports and calls a user's own builder, `module:function`, so that every error of it is one line."""

import importlib
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

import tensorflow as tf

from tasks.errors import SettingsError, UndriftError, one_line, reading
from tasks.models.builders import Builder
from tasks.signals import number_of


@contextmanager
def foreign(wanted: str) -> Iterator[None]:
    """Turns whatever the user's code in the block raises, also an exit, into a SettingsError that begins with `wanted`.

    Ctrl-C and SIGTERM pass through. After the block, Keras's floating-point type and policy are what they were
    before it. Otherwise, changes by the user's code would also apply to later models.
    """
    before = tf.keras.backend.floatx(), tf.keras.mixed_precision.global_policy()
    try:
        with reading(wanted, SettingsError):
            yield
    except SystemExit as exc:
        if number_of(exc) is not None:
            raise
        raise SettingsError(f"{wanted}, got an exit with status {exc.code!r:.100}") from exc
    except BaseException as exc:  # a user can derive a class from BaseException
        if isinstance(exc, UndriftError) or number_of(exc) is not None:
            raise
        raise SettingsError(f"{wanted}, got {one_line(exc)}") from exc
    finally:
        tf.keras.backend.set_floatx(before[0])
        tf.keras.mixed_precision.set_global_policy(before[1])


def load_builder(name: str) -> Builder:
    """Returns the function that `module:function` names.

    Raises:
        SettingsError: (1) the module cannot be imported, (2) it is Python's own, (3) another module hides the user's
            file, or (4) the module has no such function.
    """
    module_name, _, function = name.partition(":")
    wanted = f"federate.model {name} must name a function of a module that can be imported"
    with foreign(wanted):
        _check_whose(name, module_name.partition(".")[0])
        module = importlib.import_module(module_name)
        builder = getattr(module, function, None)
    place = getattr(module, "__file__", None) or "which has no file"
    if builder is None:
        raise SettingsError(f"{wanted}, got no {function} in {module_name} ({place})")
    if not callable(builder):
        raise SettingsError(f"federate.model {name} must name a function, got {type(builder).__name__}")
    return builder  # type: ignore[no-any-return]


def _check_whose(name: str, top: str) -> None:
    """Refuses, before the import, Python's own modules and a module that hides a user's file of the same name.

    Python imports each name only once, and built-in modules before all files. So a user's types.py is never read.
    """
    spec, loaded = PathFinder.find_spec(top), sys.modules.get(top)
    if loaded is not None:
        used = getattr(loaded, "__file__", None)
    else:
        used = spec.origin if spec is not None and top not in sys.builtin_module_names else None
    if spec is not None and spec.origin is not None and not _same_file(used, spec.origin):
        raise SettingsError(
            f"federate.model {name}: {spec.origin} cannot be imported, because Python has another module {top} "
            f"({used or 'built in'}): rename the file"
        )
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    if top in sys.stdlib_module_names and (used is None or Path(used).resolve().is_relative_to(standard)):
        raise SettingsError(f"federate.model {name} must name a module of yours, got {top} of Python's own")


def _same_file(path: str | None, other: str) -> bool:
    return path is not None and Path(path).resolve() == Path(other).resolve()
