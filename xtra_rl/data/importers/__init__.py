"""Public offline data in other formats, brought into the format of this library."""

from xtra_rl.data.importers.dqn_files import download_dqn_replay
from xtra_rl.data.importers.dqn_replay import import_dqn_replay
from xtra_rl.data.importers.minari_dataset import import_minari
from xtra_rl.data.importers.shared import OnProgress

__all__ = ["OnProgress", "download_dqn_replay", "import_dqn_replay", "import_minari"]
