"""Videos are playable, enlarged without blur, and never half written."""

from __future__ import annotations

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from xtra_rl.evaluation import video
from xtra_rl.evaluation.video import write_video


def frames(count=6, height=15, width=21):
    picture = np.zeros((count, height, width, 3), dtype=np.uint8)
    for t in range(count):
        picture[t, :, : width // 2] = 40 * t
    return picture


def test_small_odd_frames_become_a_large_even_video(tmp_path):
    path = write_video(tmp_path / "a" / "b.mp4", torch.from_numpy(frames()), 15, min_side=100)
    with imageio.get_reader(path) as reader:
        pictures = [np.asarray(picture) for picture in reader]
        assert reader.get_meta_data()["fps"] == 15
    # 15 x 21 times 7 is 105 x 147: one more row and column make the sides even.
    assert len(pictures) == 6
    assert pictures[0].shape == (106, 148, 3)
    assert abs(float(pictures[5][50, 20].mean()) - 200) < 12
    assert [file.name for file in path.parent.iterdir()] == ["b.mp4"]


def test_large_frames_keep_their_size(tmp_path):
    assert video._enlarge(frames(1, 300, 400), 240).shape == (1, 300, 400, 3)


def test_without_an_encoder_a_gif_is_written_and_said(tmp_path, monkeypatch):
    def fail(path, *_):
        path.write_bytes(b"half")
        raise OSError("no ffmpeg")

    monkeypatch.setattr(video, "_encode_mp4", fail)
    with pytest.warns(RuntimeWarning, match="no ffmpeg.; writing a GIF"):
        path = write_video(tmp_path / "a.mp4", frames(), 15)
    assert path.name == "a.gif"
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]
    assert len(imageio.mimread(path)) == 6


@pytest.mark.parametrize(
    "bad",
    [np.zeros((3, 4, 4), np.uint8), np.zeros((2, 4, 4, 3)), np.zeros((0, 4, 4, 3), np.uint8)],
    ids=["no time", "float", "empty"],
)
def test_bad_frames_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match=r"expected uint8 \[T, H, W, 3\]"):
        write_video(tmp_path / "a.mp4", bad, 15)


def test_a_frame_rate_of_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fps=0"):
        write_video(tmp_path / "a.mp4", frames(), 0)
