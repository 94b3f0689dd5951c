"""Public offline data in other formats, brought into the format of this library."""

from xtra_rl.data.importers.dqn_replay import download_dqn_replay, import_dqn_replay

__all__ = ["download_dqn_replay", "import_dqn_replay"]
