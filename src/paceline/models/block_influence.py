"""By how much a block changes what enters it: importance by similarity, for any model.

Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (arXiv 2403.03853),
section 3: a block that leaves the direction of the hidden states as it is can go first.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def changes(
    before: Float[Tensor, "tokens width"], after: Float[Tensor, "tokens width"]
) -> Float[Tensor, " tokens"]:
    """1 - cosine between what enters and what leaves a block, per token, in float32.

    The Block Influence of a block is its mean over the tokens of the calibration samples. A block that only changes
    lengths has none.

    >>> import torch
    >>> changes(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])).tolist()
    [0.0, 1.0]
    """
    return 1 - functional.cosine_similarity(before.float(), after.float(), dim=-1)
