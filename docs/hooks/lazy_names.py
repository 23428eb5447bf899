"""The names that a module imports when they are first asked for, on the pages of the API."""

import ast

import griffe


class LazyNames(griffe.Extension):
    """Adds an alias to a module for each entry {name: module} of its `_LAZY`."""

    def on_module_members(self, *, mod, **_):
        lazy = mod.members.get("_LAZY")
        for name, place in ast.literal_eval(str(lazy.value)).items() if lazy else ():
            if name not in mod.members:
                mod.set_member(name, griffe.Alias(name, target=f"{place}.{name}", parent=mod))
