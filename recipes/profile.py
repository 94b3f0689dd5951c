"""Where the time of a training step goes: ``python recipes/profile.py`` runs :mod:`xtra_rl.recipes.profile_training`.

A file of this name also answers to ``import profile`` in every script of this folder, and PyTorch asks for the standard
library's module: it gets that one.
"""

import importlib.util
import sys
import sysconfig

if __name__ == "__main__":
    from xtra_rl.recipes import common
    from xtra_rl.recipes.profile_training import main

    common.launch(main)
elif __name__ == "profile":
    spec = importlib.util.spec_from_file_location(__name__, f"{sysconfig.get_path('stdlib')}/profile.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
