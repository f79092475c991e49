"""The losses of MSA training."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(scores: Tensor, positive: Tensor, ignored: Tensor, temperature: float) -> Tensor:
    """Mean over a query's positives of -log(e^{s+} / (e^{s+} + sum over negatives e^{s-})).

    scores [Q,D]; positive, ignored [Q,D] bool. Positives are not each other's negatives; ignored documents
    (taken in earlier rounds) are neither. Queries without a positive count nothing."""
    logits = scores / temperature
    negatives = logits.masked_fill(positive | ignored, -1e9).logsumexp(-1, keepdim=True)
    loss = torch.logaddexp(logits, negatives) - logits
    count = positive.sum(-1)
    per_query = torch.where(positive, loss, 0.0).sum(-1) / count.clamp(min=1)
    return per_query.sum() / (count > 0).sum().clamp(min=1)


def routing_loss(scores: dict[int, Tensor], positive: Tensor, ignored: Tensor, temperature: float) -> Tensor:
    """The mean of the router layers' losses (each must select well) plus that of the mean score (which ranks)."""
    layers = torch.stack([info_nce(s, positive, ignored, temperature) for s in scores.values()]).mean()
    mean_score = torch.stack(list(scores.values())).mean(0)
    return layers + info_nce(mean_score, positive, ignored, temperature)


def stop_loss(score: Tensor, positive: Tensor, ignored: Tensor, temperature: float, level: float) -> Tensor:
    """What a later round is to do, stop or take a document, as a choice among the documents and a constant score.

    score [Q,D] the mean over layers. A query with positives should score them above `level`, one without should
    score every document below it; so one threshold can tell, whatever the memory's size."""
    logits = score.masked_fill(ignored, -1e4) / temperature     # finite: an empty row has a gradient too
    stop = torch.full_like(score[:, :1], level / temperature)
    everything = torch.cat((logits, stop), 1).logsumexp(-1)
    found = logits.masked_fill(~positive, -1e9).logsumexp(-1)
    return (everything - torch.where(positive.any(-1), found, stop[:, 0])).mean()


def answer_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean cross-entropy of the answer tokens; logits [n,V], targets and weights [n]."""
    if weights is None:
        return F.cross_entropy(logits, targets)
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum().clamp(min=1e-6)


def set_apart(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the logit of its token [n], and the others' [n,V], the token's place -inf; logits [n,V], tokens [n]."""
    chosen = tokens[:, None]
    return logits.gather(1, chosen)[:, 0], logits.scatter(1, chosen, float("-inf"))


def margin(logits: Tensor, tokens: Tensor) -> Tensor:
    """By how much the logit of each row's token is above its largest other; logits [n,V], tokens and the result [n]."""
    chosen, others = set_apart(logits, tokens)
    return chosen - others.amax(-1)


def log_odds(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of each row's token against all others together; logits [n,V], tokens and the result [n]."""
    chosen, others = set_apart(logits, tokens)
    return chosen - others.logsumexp(-1)


def refusing_loss(logits: Tensor, places: Tensor, odds: Tensor, token: Tensor) -> Tensor:
    """Mean cross-entropy of refusing or not against a teacher's probability of it, where answers begin.

    logits [n,V]; places [m] rows of them; odds [m] the teacher's log odds; token: the refusal's first."""
    begin = logits[places].float()
    return F.binary_cross_entropy_with_logits(log_odds(begin, token.expand(len(begin))), odds.sigmoid())


def choice_loss(logits: Tensor, members: Tensor, shares: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Which of a group's readings is to be believed, as the reader chooses: by the least margin of refusing (refusal.py). Mean over groups of
    the cross-entropy of the softmax of the margins' negatives against the shares; second the share of groups where the likeliest has the least.

    logits [n,V]; members [G,k] rows of logits where a reading's answer begins, -1 where there is none; shares [G,k] sum to 1 (batches.members);
    token: the refusal's first."""
    begin = logits[members.clamp(min=0).flatten()].float()
    inclined = -margin(begin, token.expand(len(begin))).view(members.shape)
    inclined = inclined.masked_fill(members < 0, -1e4)      # finite: a share of 0 times it is 0
    return F.cross_entropy(inclined, shares), (inclined.argmax(-1) == shares.argmax(-1)).float().mean()
