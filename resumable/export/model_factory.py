"""The one function that the user named, found and called, with its failures told; knows no model and no checkpoint."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from resumable.errors import ConfigError, ExportError
from resumable.utils.messages import nearest, quoted

_TRAINS = "name a module that can be imported: what trains belongs behind `if __name__ == '__main__':`"
_OURS = str(Path(__file__).parents[1])


def made_by(factory: str) -> Any:
    """What `package.module:function` makes when it is called without arguments.

    The current folder is where modules are looked for first, as in `python -m`. Nothing trains meanwhile. `ConfigError`
    where there is no such function or where it would train, `ExportError` for what it raises.
    """
    from resumable.loop.launch_checks import building

    module, path = _parsed(factory)
    with building(factory):
        function = _function(_imported(factory, module), factory, path)
        try:
            return function()
        except ConfigError:
            raise  # which says by itself what is to be done
        except (Exception, SystemExit) as error:
            raise ExportError(f"{factory}() raised {_told(error)}", "it is called without arguments") from error


def _parsed(factory: str) -> tuple[str, str]:
    module, colon, path = factory.partition(":")
    if module.endswith(".py") or os.sep in module:
        raise ConfigError(
            f"--model {factory}: expected package.module:function, not a path", _instead(Path(module), path or "build")
        )
    if not colon or not module or not path:
        raise ConfigError(f"--model {factory}: expected package.module:function", "for example my_project.model:build")
    return module, path


def _instead(path: Path, function: str) -> str:
    if path.is_absolute() or ".." in path.parts:
        return f"write {path.stem}:{function}, in the folder {path.parent}"
    return f"write {'.'.join(path.with_suffix('').parts)}:{function}"


# -- the module -------------------------------------------------------------------------------------------------------


def _imported(factory: str, module: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ConfigError:
        raise
    except ImportError as error:
        raise _not_imported(factory, module, error) from error
    except (Exception, SystemExit) as error:  # a training script that was named begins to train, or to parse arguments
        raise ExportError(f"--model {factory}: importing {module} raised {_told(error)}", _TRAINS) from error


def _not_imported(factory: str, module: str, error: ImportError) -> ConfigError:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module}.".startswith(f"{missing}."):
        return ConfigError(f"--model {factory}: {error}", "run it from the folder in which `import` finds it")
    hint = f"mend that first: `python -c 'import {module}'`"
    if missing is not None:
        hint = f"{module} imports {missing}: install it, or run this where it is installed"
    return ConfigError(f"--model {factory}: importing {module} raised {_told(error)}", hint)


# -- the function -----------------------------------------------------------------------------------------------------


def _function(module: ModuleType, factory: str, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise ConfigError(f"--model {factory}: {error}", _nearest(factory, found, name)) from error
        except Exception as error:  # a module may import its names late
            raise ExportError(f"--model {factory}: {name} raised {_told(error)}", "name what is there") from error
    _refuse_built(found, factory)
    if not callable(found):
        raise ConfigError(f"--model {factory}: a {type(found).__name__}, expected a function", "name what is called")
    return found


def _nearest(factory: str, owner: Any, name: str) -> str:
    found = nearest(name, dir(owner), cutoff=0.6)
    if not found:
        return "name a function that builds the model"
    module, _, path = factory.partition(":")
    names = path.split(".")
    names[names.index(name)] = found[0]
    return f"did you mean {module}:{'.'.join(names)}?"


def _refuse_built(found: Any, factory: str) -> None:
    from torch import nn

    if isinstance(found, nn.Module):
        raise ConfigError(
            f"--model {factory}: a model that is built already ({type(found).__name__}), expected a function",
            "name a function that builds it",
        )


# -- what it raised ---------------------------------------------------------------------------------------------------


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {quoted(error)}{_place(error)}"


def _place(error: BaseException) -> str:
    """Where in the user's own code: not in torch, which was called by it, nor here."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _within(frame.filename, _OURS)]
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    theirs = [frame for frame in frames if not any(_within(frame.filename, each) for each in libraries)]
    place = next((frame for frame in reversed(theirs) if not frame.filename.startswith("<")), None)
    return f" ({quoted(place.filename)}, line {place.lineno})" if place is not None else ""


def _within(file: str, folder: str) -> bool:
    return Path(file).is_relative_to(folder)
