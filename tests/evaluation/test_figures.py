"""Pictures are drawn from what a run really logs."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest

from xtra_rl.evaluation import figures
from xtra_rl.training.logging import RunLogger


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    with RunLogger(path) as logger:
        for step in range(60):
            metrics = {f"loss/{head}": generator.random() for head in ("value", "policy", "total", "a/value")}
            metrics |= {f"grad_cos/{task}": generator.normal() for task in ("carnival", "phoenix")}
            metrics |= {"task_weight/carnival": 1.0, "train/episode_return": generator.random() * 100}
            logger.log(metrics, env_step=4 * step, train_step=step)
        logger.log({"eval/assault/return": float("nan")}, env_step=240, train_step=60)
        logger.log({"eval/assault/return_sampled": 300.0}, env_step=240, train_step=60)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look into."""
    saved = []
    real = figures._save

    def save(figure, *args):
        saved.append(figure)
        return real(figure, *args)

    monkeypatch.setattr(figures, "_save", save)
    return saved


def texts(figure):
    legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    panels = [text.get_text() for axes in figure.axes for text in axes.texts]
    return legend, panels


def is_picture(path):
    picture = imageio.imread(path)
    return picture.shape[0] > 300 and picture[..., :3].std() > 5


def test_metrics_are_read_back_in_order(run):
    series = figures.read_metrics(run)
    assert series["loss/value"].env_step.tolist() == [4.0 * step for step in range(60)]
    assert series["loss/value"].train_step[-1] == 59
    assert series["eval/assault/return_sampled"].value.tolist() == [300.0]


def test_learning_curve_shows_scores_and_known_baselines(run, tmp_path, drawn):
    path = figures.learning_curve(
        run,
        tmp_path / "new" / "curve.png",
        task="assault",
        scale="smoke",
        seed=3,
        baselines={"random": 222.4, "untrained network": None},
    )
    assert is_picture(path)
    legend, panels = texts(drawn[0])
    assert legend == [
        "training episodes",
        "training, mean of 3 episodes",
        "evaluation, greedy",
        "evaluation, sampled",
        "random (222.4)",
    ]
    assert panels == []
    assert drawn[0].get_suptitle() == "assault: score during training  (scale smoke, seed 3)"
    assert drawn[0].axes[0].get_xlabel() == "environment steps (1 step = 4 frames)"


def test_task_weights_and_cosines_share_colours_and_show_the_windows(run, tmp_path, drawn):
    windows = [(10, 20), (30, 40)]
    path = figures.task_weight_traces(
        run, tmp_path / "w.png", scale="smoke", seed=0, windows=windows, threshold=0.1
    )
    assert is_picture(path)
    legend, panels = texts(drawn[0])
    assert legend == ["carnival", "measuring window", "phoenix", "threshold"]
    assert panels == []
    weights, cosines = drawn[0].axes
    assert len(weights.patches) == len(cosines.patches) == 2
    assert weights.lines[0].get_color() == cosines.lines[0].get_color()


def test_losses_have_one_panel_per_head(run, tmp_path, drawn):
    path = figures.loss_curves(run, tmp_path / "l.pdf", scale="smoke", seed=0)
    assert path.read_bytes().startswith(b"%PDF")
    labels = [axes.get_ylabel() for axes in drawn[0].axes if axes.axison]
    assert labels == ["value loss", "policy loss", "total loss"]
    # Both loss/value and loss/a/value are in the first panel, each with its faint raw curve.
    assert [len(axes.lines) for axes in drawn[0].axes[:3]] == [4, 2, 2]


@pytest.mark.parametrize("kind", ["learning_curve", "task_weight_traces", "loss_curves"])
def test_a_run_without_data_gives_a_picture_that_says_so(kind, tmp_path, drawn):
    with RunLogger(tmp_path):
        pass
    arguments = {"task": "assault", "baselines": {"random": 1.0}} if kind == "learning_curve" else {}
    path = getattr(figures, kind)(tmp_path, tmp_path / "x.png", scale="smoke", seed=0, **arguments)
    assert is_picture(path)
    assert all("logged yet" in text for text in texts(drawn[0])[1])
    assert texts(drawn[0])[1]


def test_weights_without_cosines_keep_their_steps(tmp_path, drawn):
    series = {"task_weight/a": figures.Series(*np.arange(6.0).reshape(3, 2))}
    figures.task_weight_traces(series, tmp_path / "x.png", scale="smoke", seed=0)
    weights, cosines = drawn[0].axes
    assert len(weights.get_xticks()) > 2
    assert texts(drawn[0])[1] == ["no gradient cosines were logged yet"]


def test_running_mean_by_hand_skips_nan():
    # Window 2 over 1, 3, nan, 5: means of (1), (1, 3), (3), (5).
    values = np.array([1.0, 3.0, np.nan, 5.0])
    assert figures._running_mean(values, 2).tolist() == [1.0, 2.0, 3.0, 5.0]


def test_more_tasks_than_colours_are_told_apart_by_line_style():
    looks = figures.line_looks(20)
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 20


def test_drawing_does_not_change_the_users_settings(run, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.loss_curves(run, tmp_path / "l.png", scale="smoke", seed=0)
    assert dict(matplotlib.rcParams) == before


def test_missing_and_torn_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="metrics.csv does not exist"):
        figures.read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_text("env_step,train_step,metric,value\n1,2,loss/a\n")
    with pytest.raises(
        ValueError, match="has a row that is not env_step,train_step,metric,value: 1,2,loss/a"
    ):
        figures.read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,metric,value\n1,loss/a,2\n")
    with pytest.raises(ValueError, match="has the columns step,metric,value; expected env_step"):
        figures.read_metrics(tmp_path)
