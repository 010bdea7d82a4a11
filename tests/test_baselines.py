"""evaluation/baselines.py: a linear model on mean frames."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from evaluation.baselines import mean_frame_linear


def blobs(n: int, apart: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean frames of three classes, each with one corner in a colour of its own."""
    noise, labels = np.random.default_rng(seed), np.arange(n) % 3
    frames = noise.normal(128, 10, (n, 6, 6, 3))
    frames[:, :3, :3] += apart * np.eye(3)[labels][:, None, None]
    return frames, labels


def test_a_linear_model_sees_what_mean_frames_show():
    assert mean_frame_linear(*blobs(60, 15, 0), *blobs(60, 15, 1)) > 0.95
    assert 0.15 < mean_frame_linear(*blobs(60, 0, 0), *blobs(60, 0, 1)) < 0.55


def test_folds_keep_groups_together():
    frames, labels = blobs(60, 15, 0)
    assert mean_frame_linear(frames, labels, *blobs(60, 15, 1), groups=np.arange(60) // 6) > 0.95
    with pytest.raises(ValueError, match="two groups"):
        mean_frame_linear(frames, labels, frames, labels, groups=np.zeros(60))
    with pytest.raises(ValueError, match="two training videos"):
        mean_frame_linear(frames[:4], np.array([0, 0, 1, 2]), frames, labels)


def test_rotating_into_the_span_of_the_training_data_changes_no_prediction():
    """The reason why many pixels are affordable."""
    (frames, labels), (test_frames, test_labels) = blobs(30, 8, 0), blobs(90, 8, 1)
    scaler = StandardScaler().fit(frames.reshape(30, -1))
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": 10.0 ** np.arange(-6, 1)},
                          cv=StratifiedKFold(3, shuffle=True, random_state=0))
    search.fit(scaler.transform(frames.reshape(30, -1)), labels)
    slow = search.score(scaler.transform(test_frames.reshape(90, -1)), test_labels)
    assert mean_frame_linear(frames, labels, test_frames, test_labels) == pytest.approx(slow, abs=0.025)
