"""What merges need to know of a model besides its weights; computed with torch.

    from git_theta import stats

    found = stats.fisher(model, batches)          # {parameter: Tensor}
    grams = stats.gram(model, batches)            # {weight: X^T X / n}

A batch is a pair (inputs, labels): inputs are a tensor, or a mapping of keyword arguments, with
examples along the first dimension; labels are class numbers, or None where none are needed. The
model returns logits, or an object that has `logits`.
"""

from __future__ import annotations

from git_theta.stats.fisher import Fisher, fisher
from git_theta.stats.gram import Gram, gram
from git_theta.stats.moments import Moments
from git_theta.stats.writing import SidecarWriter, code_version

__all__ = ["Fisher", "Gram", "Moments", "SidecarWriter", "code_version", "fisher", "gram"]
