"""Modules that know how they were built, so that they can be saved and built again."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec

Options = ParamSpec("Options")
Constructor = Callable[Concatenate[Any, Options], None]


def keeps_config(init: Constructor[Options]) -> Constructor[Options]:
    """Keep every argument of a constructor, defaults too, in ``self.config``: ``type(module)(**module.config)``."""
    named = signature(init)

    @wraps(init)
    def construct(self: Any, *args: Options.args, **options: Options.kwargs) -> None:
        init(self, *args, **options)
        bound = named.bind(self, *args, **options)
        bound.apply_defaults()
        self.config = dict(list(bound.arguments.items())[1:])  # all but self

    return construct
