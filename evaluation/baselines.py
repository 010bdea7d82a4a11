"""Baselines that see no motion: a data set must not be so easy that they are enough."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler


def mean_frame_linear(train_frames: np.ndarray, train_labels: np.ndarray, test_frames: np.ndarray,
                      test_labels: np.ndarray, *, groups: np.ndarray | None = None) -> float:
    """Accuracy of a linear model on the videos' mean frames, which show no motion.

    Multinomial logistic regression on standardised pixels; its regularisation is chosen by cross-validation on the
    training part alone.

    Args:
        train_frames, test_frames: (N, h, w, 3), any numeric type.
        train_labels, test_labels: (N,) integers.
        groups: (N,) the training videos' groups; given, no group is on both sides of a fold.
    Returns:
        accuracy on the test part, 0..1.
    Raises:
        ValueError: a class with fewer than two training videos, or a single group.
    """
    smallest = np.unique(train_labels, return_counts=True)[1].min() if groups is None else len(np.unique(groups))
    folds = min(3, int(smallest))
    if folds < 2:
        raise ValueError("cross-validation needs two training videos of every class, and two groups")
    flat = [np.asarray(frames, dtype=np.float64).reshape(len(frames), -1) for frames in (train_frames, test_frames)]
    scaler = StandardScaler().fit(flat[0])
    train, test = (scaler.transform(pixels) for pixels in flat)  # (N, h w 3)
    # A regularised linear model lives in the span of its training data: rotating into it changes no prediction and
    # leaves N numbers a video instead of all pixels.
    span = np.linalg.svd(train, full_matrices=False)[2].T  # (h w 3, N)
    folding = GroupKFold(folds) if groups is not None else StratifiedKFold(folds, shuffle=True, random_state=0)
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": 10.0 ** np.arange(-5, -1)}, cv=folding, n_jobs=-1)
    search.fit(train @ span, train_labels, groups=groups)
    return float(search.score(test @ span, test_labels))
