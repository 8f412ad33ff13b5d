"""SoftCE: cross-entropy with soft labels."""

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses.ops.precision import at_least_fp32


class SoftCE(nn.Module):
    """Cross-entropy with probabilities of the classes, averaged over the batch.

    It takes the place of CE where labels are smoothed or images are mixed. With label smoothing
    alone it equals `CE(label_smoothing=...)`. timm: `SoftTargetCrossEntropy`.

    "mixup: Beyond Empirical Risk Minimization", Zhang, Cisse, Dauphin and Lopez-Paz, 2018,
    https://arxiv.org/abs/1710.09412; "CutMix: Regularization Strategy to Train Strong Classifiers
    with Localizable Features", Yun, Han, Oh, Chun, Choe and Yoo, 2019,
    https://arxiv.org/abs/1905.04899.

        mean over images of -sum_c target_c log softmax(student)_c
    """

    def forward(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss from logits (n, k) and probabilities (n, k)."""
        logits = at_least_fp32(student_logits)
        return F.cross_entropy(logits, targets.to(logits.dtype))
