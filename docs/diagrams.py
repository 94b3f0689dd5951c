"""The site's diagrams, drawn as SVG: ``python docs/diagrams.py`` writes ``docs/pictures``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
# Text stays text, so that a page can be searched; the same input gives the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "xtra_rl", "font.family": "sans-serif"})

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PICTURES = Path(__file__).parent / "pictures"
STAGE, STORE, MODEL, PLAIN = "#cfe3f5", "#e9e2f3", "#d8efdc", "#f4f4f4"
INK = "#222222"


class Diagram:
    """Boxes and arrows on a grid whose unit is about the width of a letter."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / 10, height / 10))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.axis("off")
        self.boxes: dict[str, tuple[float, float, float, float]] = {}

    def box(self, name: str, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
        """A box whose first line is bold."""
        self.boxes[name] = (x, y, width, height)
        look = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.7",
            facecolor=colour,
            edgecolor=INK,
            linewidth=0.8,
        )
        self.axes.add_patch(look)
        lines = text.split("\n")
        top = y + height / 2 - 0.85 * (len(lines) - 1)
        for number, line in enumerate(lines):
            weight = "normal" if number else "bold"
            self._text(x + width / 2, top + 1.7 * number, line, fontsize=8, weight=weight)

    def frame(self, x: float, y: float, width: float, height: float, title: str) -> None:
        """A dashed frame around boxes."""
        look = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.7", facecolor="none", edgecolor="#888888",
            linewidth=0.8, linestyle=(0, (4, 3)),
        )  # fmt: skip
        self.axes.add_patch(look)
        self._text(x + 1, y + height - 1.3, title, fontsize=8, style="italic", ha="left")

    def arrow(
        self,
        start: str,
        end: str,
        label: str = "",
        *,
        sides: str = "rl",
        shift: float = 0.0,
        at: tuple[float, float] = (0, -1.1),
    ) -> None:
        """An arrow from a side of a box to a side of another (l, r, t, b), with a label beside its middle."""
        first, last = (self._side(name, side, shift) for name, side in zip((start, end), sides))
        self.line([first, last], label, at=at)

    def line(
        self, points: list[tuple[float, float]], label: str = "", *, at: tuple[float, float] = (0, -1.1)
    ) -> None:
        """An arrow through points."""
        xs, ys = zip(*points)
        self.axes.plot(xs[:-1], ys[:-1], color=INK, linewidth=1.0)
        arrow: dict[str, Any] = {
            "arrowstyle": "-|>",
            "color": INK,
            "linewidth": 1.0,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        self.axes.annotate("", xy=points[-1], xytext=points[-2], arrowprops=arrow)
        middle = (len(points) - 1) // 2
        (x, y), (u, v) = points[middle], points[middle + 1]
        for number, text in enumerate(label.split("\n")):
            self._text((x + u) / 2 + at[0], (y + v) / 2 + at[1] + 1.5 * number, text, fontsize=7)

    def save(self, name: str, folder: Path) -> None:
        """Write the SVG."""
        self.figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})

    def _side(self, name: str, side: str, shift: float) -> tuple[float, float]:
        x, y, width, height = self.boxes[name]
        return {
            "l": (x, y + height / 2 + shift),
            "r": (x + width, y + height / 2 + shift),
            "t": (x + width / 2 + shift, y),
            "b": (x + width / 2 + shift, y + height),
        }[side]

    def _text(self, x: float, y: float, text: str, **look: Any) -> None:
        self.axes.text(x, y, text, **{"ha": "center", "va": "center", "color": INK} | look)


def pipeline() -> Diagram:
    """From games to a finetuned agent: recipes in blue, what they leave on disk in violet."""
    draw = Diagram(96, 38)
    draw.frame(1, 2, 65, 20.5, "each cross task, e.g. amidar, bank_heist")
    draw.box(
        "collect",
        3,
        4,
        20,
        8,
        "collect_offline.py\nEfficientZero plays, its\ncheckpoints record games",
        STAGE,
    )
    draw.box("data", 27, 4, 14, 8, "dataset\nwhole episodes,\nsingle frames", STORE)
    draw.box("teach", 45, 4, 19, 8, "train_teacher.py\noffline EfficientZero,\nreanalysis only", STAGE)
    draw.box("columns", 45, 14.5, 19, 6, "teacher columns\npolicy, value of every step", STORE)
    draw.box("distill", 76, 4, 18, 8, "distill.py\none student of\nall teachers", STAGE)
    draw.box("student", 76, 15, 18, 6, "student\na world model", STORE)
    text = "xtra_finetune.py\nacts in the target game, searches, reanalyses, learns;"
    text += "\ncross-task batches, weighted by gradient agreement"
    draw.box("tune", 45, 26, 49, 9, text, STAGE)
    draw.box("env", 3, 26, 14, 9, "target game\ne.g. alien", PLAIN)
    draw.box("run", 23, 26, 16, 9, "run directory\nmodel, scores, logs,\npictures, video", STORE)
    draw.arrow("collect", "data")
    draw.arrow("data", "teach")
    draw.arrow("teach", "columns", sides="bt")
    draw.line([(34, 12), (34, 17.5), (45, 17.5)], "beside the data", at=(0, -1.1))
    draw.line([(64, 17.5), (70, 17.5), (70, 8), (76, 8)], "", at=(0, 0))
    draw.arrow("distill", "student", sides="bt")
    draw.line([(85, 21), (85, 26)], "components:\nrepresentation, dynamics, ...", at=(-9.5, -0.8))
    draw.line([(54.5, 20.5), (54.5, 26)], "cross-task\nbatches", at=(5, -0.2))
    draw.line([(45, 28.5), (39, 28.5)])
    draw.line([(10, 26), (10, 23.6), (48, 23.6), (48, 26)], "frames, rewards", at=(-6, 1.2))
    draw.line([(48, 35), (48, 36.6), (10, 36.6), (10, 35)], "actions", at=(0, -0.9))
    return draw


def training_step() -> Diagram:
    """One iteration of the online loop by the classes that do it, with what they hand on."""
    draw = Diagram(113, 51)
    draw.box("env", 2, 3, 19, 6, "make_env(target)\nN games in lockstep", PLAIN)
    draw.box("actor", 2, 15, 19, 7, "Actor.step\nsearches with the\nnewest weights", STAGE)
    draw.box(
        "cross", 28, 3, 23, 7, "DatasetReplayBuffer\nof each cross task:\nframes, teacher columns", STORE
    )
    draw.box(
        "replay",
        28,
        15,
        23,
        7,
        "TrajectoryReplayBuffer\nof the target task:\nframes, visits, root values",
        STORE,
    )
    draw.box(
        "multi",
        59,
        8.5,
        23,
        8,
        "MultiTaskReplayBuffer\nprioritised windows,\nan exact quota for each task",
        STAGE,
    )
    draw.box("teacher", 90, 3, 20, 7, "TeacherTargets\nstored policies and\nvalues", STAGE)
    draw.box("reanalyze", 90, 15, 20, 7, "ReanalyzeTargets\nsearch and values by\nthe target network", STAGE)
    draw.box("augment", 90, 29, 20, 6, "Learner: augment\nshift and intensity", STAGE)
    draw.box("loss", 59, 28, 23, 8, "MuZeroLoss\nunroll K steps: policy, value,\nreward, consistency", STAGE)
    draw.box(
        "weights", 59, 41, 23, 7, "TaskWeighting\nin a window: gradient of each\ntask apart, cosines", STAGE
    )
    draw.box("optim", 28, 28, 23, 8, "optimiser\nsum of weighted gradients,\nclipped at norm 5", STAGE)
    draw.box("model", 2, 28, 19, 8, "WorldModel\nrepresentation, dynamics,\nprediction, projection", MODEL)
    draw.box("lag", 2, 41, 19, 7, "LaggingTarget\nweights of 200 to\n400 train steps ago", MODEL)
    draw.line([(7, 9), (7, 15)], "observation", at=(4.4, -0.9))
    draw.line([(16, 15), (16, 9)], "action", at=(2.6, 0.9))
    draw.arrow("actor", "replay", "rows")
    draw.line([(51, 6.5), (55, 6.5), (55, 11), (59, 11)])
    draw.line([(51, 18.5), (55, 18.5), (55, 14), (59, 14)])
    draw.line([(82, 11), (86, 11), (86, 6.5), (90, 6.5)])
    draw.line([(82, 14), (86, 14), (86, 17), (90, 17)])
    draw.line([(110, 6.5), (111.7, 6.5), (111.7, 25.5), (100, 25.5), (100, 29)])
    draw.line([(100, 22), (100, 29)], "batch [B]", at=(-4, -1.8))
    draw.arrow("augment", "loss", sides="lr")
    draw.line(
        [(70.5, 28), (70.5, 16.5)], "absolute value error\nof each sample:\nnew priority", at=(-7.5, -1.5)
    )
    draw.arrow("loss", "optim", sides="lr")
    draw.arrow("loss", "weights", sides="bt")
    draw.line([(59, 44.5), (39.5, 44.5), (39.5, 36)], "weight of each\ncross task", at=(8, 1.4))
    draw.arrow("optim", "model", sides="lr")
    draw.line([(11.5, 28), (11.5, 22)], "folded copy", at=(4.6, 0))
    draw.line([(11.5, 36), (11.5, 41)], "every 200 steps", at=(5.8, 0))
    draw.line(
        [(11.5, 48), (11.5, 50), (86, 50), (86, 20.5), (90, 20.5)], "searches of reanalysis", at=(-27, 13.6)
    )
    return draw


def search() -> Diagram:
    """One search of B roots: what the model does is green, what a backend does on the tree is blue."""
    draw = Diagram(98, 46)
    draw.box(
        "root", 2, 3, 25, 8, "initial_inference\nobservation [B, F*C, H, W]\nto latent, value, prior", MODEL
    )
    draw.box("noise", 34, 3, 25, 8, "root\nprior [B, A], value [B];\nnoise, illegal actions masked", PLAIN)
    draw.box("pool", 2, 20, 25, 8, "pool of latents\n[N, B, ...]\nnode i of every tree", STORE)
    draw.box("select", 34, 20, 25, 8, "select\nwalk down by pUCT or Gumbel\nto an edge without child", STAGE)
    draw.box(
        "model",
        34,
        33,
        25,
        8,
        "recurrent_inference\nlatent, action [B] to reward,\nvalue, prior, next latent",
        MODEL,
    )
    draw.box("expand", 68, 33, 25, 8, "expand\nadd node i: reward, value,\nprior of the leaf", STAGE)
    draw.box("back", 68, 20, 25, 8, "back up\nG = r + discount G\nvisits and sums to the root", STAGE)
    draw.box("result", 68, 3, 25, 8, "SearchResult\nvisit_counts, action_weights,\nroot_value, action", PLAIN)
    draw.frame(31, 15.5, 65, 29, "num_simulations times, all B trees at once")
    draw.arrow("root", "noise")
    draw.line([(14.5, 11), (14.5, 20)], "root latent", at=(5, 0))
    draw.line([(46.5, 11), (46.5, 20)])
    draw.line([(46.5, 28), (46.5, 33)], "parent, action", at=(6, 0))
    draw.line([(14.5, 28), (14.5, 35.5), (34, 35.5)], "latents of the parents", at=(0, -1.1))
    draw.line([(34, 39), (7, 39), (7, 28)], "next latents", at=(12, 4.5))
    draw.arrow("model", "expand")
    draw.arrow("expand", "back", sides="tb")
    draw.arrow("back", "select", sides="lr")
    draw.line([(80.5, 20), (80.5, 11)], "after the last one", at=(8, -1.6))
    return draw


def kernels() -> Diagram:
    """One simulation on a GPU: the two kernels are blue, what PyTorch does is green."""
    draw = Diagram(98, 27)
    draw.box("gather", 2, 3, 25, 8, "gather_latents\npool[parent] to a buffer,\nLSTM reset on the way", STAGE)
    draw.box("model", 40, 3, 18, 8, "model\nPyTorch, folded", MODEL)
    draw.box("step", 71, 3, 25, 8, "search_step\nadd the leaf, back up,\nselect the next place", STAGE)
    draw.box("pool", 40, 17, 18, 6, "pool of latents\npool[leaf]", STORE)
    draw.arrow("gather", "model", "latents")
    draw.arrow("model", "step", "reward, value,\nlogits", at=(0, -2.7))
    draw.line([(49, 11), (49, 17)], "next latent, one\ncontiguous copy", at=(7.5, -0.6))
    draw.line([(40, 20), (14.5, 20), (14.5, 11)], "latents of the parents", at=(12.7, 3.4))
    draw.line([(83.5, 11), (83.5, 25.5), (7, 25.5), (7, 11)], "parent, action, row", at=(0, -1.1))
    return draw


DIAGRAMS = {"pipeline": pipeline, "training_step": training_step, "search": search, "kernels": kernels}


def write(folder: Path = PICTURES) -> None:
    """Draw all of them."""
    folder.mkdir(exist_ok=True)
    for name, draw in DIAGRAMS.items():
        draw().save(name, folder)


if __name__ == "__main__":
    write()
