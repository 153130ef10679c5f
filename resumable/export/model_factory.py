"""Import and call the function that builds a model, and report its failures. Independent of checkpoints."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from resumable.errors import ConfigError, ExportError
from resumable.utils.messages import nearest, quoted

_TRAINS = "name a module that can be imported: put training code behind `if __name__ == '__main__':`"
_OURS = str(Path(__file__).parents[1])


def call_factory(factory: str) -> object:
    """Call `package.module:function` without arguments and return its result.

    Modules are imported from the current folder first, as with `python -m`. No training can start meanwhile.

    Raises `ConfigError` where there is no such function or it would train, `ExportError` for what it raises.
    """
    from resumable.loop.launch_checks import building

    module, path = _parse(factory)
    with building(factory):
        function = _find_function(_import(factory, module), factory, path)
        try:
            return function()
        except ConfigError:
            raise  # its own hint is the next thing to do
        except (Exception, SystemExit) as error:
            raise ExportError(f"{factory}() raised {_description(error)}", "it is called without arguments") from error


def _parse(factory: str) -> tuple[str, str]:
    module, colon, path = factory.partition(":")
    if module.endswith(".py") or os.sep in module:
        raise ConfigError(
            f"--model {factory}: expected package.module:function, not a path",
            _as_module(Path(module), path or "build"),
        )
    if not colon or not module or not path:
        raise ConfigError(f"--model {factory}: expected package.module:function", "for example my_project.model:build")
    return module, path


def _as_module(path: Path, function: str) -> str:
    if path.is_absolute() or ".." in path.parts:
        return f"write {path.stem}:{function}, in the folder {path.parent}"
    return f"write {'.'.join(path.with_suffix('').parts)}:{function}"


# -- the module -------------------------------------------------------------------------------------------------------


def _import(factory: str, module: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ConfigError:
        raise
    except ImportError as error:
        raise _import_error(factory, module, error) from error
    except (Exception, SystemExit) as error:  # a training script starts to train or parses arguments
        raise ExportError(f"--model {factory}: importing {module} raised {_description(error)}", _TRAINS) from error


def _import_error(factory: str, module: str, error: ImportError) -> ConfigError:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module}.".startswith(f"{missing}."):
        return ConfigError(f"--model {factory}: {error}", "run this in the folder from which `import` finds it")
    hint = f"fix that first: `python -c 'import {module}'`"
    if missing is not None:
        hint = f"{module} imports {missing}: install it, or run this where it is installed"
    return ConfigError(f"--model {factory}: importing {module} raised {_description(error)}", hint)


# -- the function -----------------------------------------------------------------------------------------------------


def _find_function(module: ModuleType, factory: str, path: str) -> Callable[[], object]:
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise ConfigError(f"--model {factory}: {error}", _nearest(factory, found, name)) from error
        except Exception as error:  # a module may import its names lazily
            hint = "name a function that can be imported"
            raise ExportError(f"--model {factory}: {name} raised {_description(error)}", hint) from error
    _refuse_built(found, factory)
    if not callable(found):
        raise ConfigError(f"--model {factory}: a {type(found).__name__}, expected a function", "name a function")
    return found


def _nearest(factory: str, owner: object, name: str) -> str:
    found = nearest(name, dir(owner), cutoff=0.6)
    if not found:
        return "name a function that builds the model"
    module, _, path = factory.partition(":")
    names = path.split(".")
    names[names.index(name)] = found[0]
    return f"did you mean {module}:{'.'.join(names)}?"


def _refuse_built(found: object, factory: str) -> None:
    from torch import nn

    if isinstance(found, nn.Module):
        raise ConfigError(
            f"--model {factory}: a model ({type(found).__name__}), expected a function",
            "name a function that builds it",
        )


# -- what it raised ---------------------------------------------------------------------------------------------------


def _description(error: BaseException) -> str:
    return f"{type(error).__name__}: {quoted(error)}{_place(error)}"


def _place(error: BaseException) -> str:
    """Return the last line of the user's own code in the traceback, without libraries and this package."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _within(frame.filename, _OURS)]
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    theirs = [frame for frame in frames if not any(_within(frame.filename, each) for each in libraries)]
    place = next((frame for frame in reversed(theirs) if not frame.filename.startswith("<")), None)
    return f" ({quoted(place.filename)}, line {place.lineno})" if place is not None else ""


def _within(file: str, folder: str) -> bool:
    return Path(file).is_relative_to(folder)
