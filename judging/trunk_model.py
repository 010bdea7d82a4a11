"""A trunk under its published head, as the judge sees a model: the softmax head alone, without prototypes."""

from torch import Tensor, nn

from explain.attribution import Subject


class TrunkModel(nn.Module):
    """What judging reads of a model with a softmax head, as `HIPE` has it.

    Args:
        subject: a trunk with a linear head.
    Attributes:
        softmax_weights: (K, C) of the head. logits: clips (B, 3, T, H, W) -> (B, K) before the softmax.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.trunk, self.softmax_weights = subject.trunk, subject.head
        self.normalisation, self.device = subject.normalisation, subject.device
        self.softmax_log_probs, self.logits = subject.log_probs, subject.logits

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised -> (B, K) log-probabilities."""
        return self.softmax_log_probs(clips)
