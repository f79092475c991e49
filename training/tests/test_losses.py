"""Losses by hand, and what they are given."""
import math
import unittest

import torch

from training import batches, losses


class LossTest(unittest.TestCase):
    def test_info_nce_by_hand(self):
        scores = torch.tensor([[2.0, 1.0, 0.0, 5.0]])
        positive = torch.tensor([[True, True, False, False]])
        ignored = torch.tensor([[False, False, False, True]])
        expected = (torch.log1p(torch.tensor(-2.0).exp()) + torch.log1p(torch.tensor(-1.0).exp())) / 2
        torch.testing.assert_close(losses.info_nce(scores, positive, ignored, 1.0), expected)

    def test_choice_by_hand(self):
        """Two groups of readings, the second of one fewer; the refusal's first token is the third of four."""
        logits = torch.tensor([[2.0, 0.0, 1.0, -5.0], [0.0, 1.0, 4.0, 0.0], [9.0, 9.0, 9.0, 9.0], [0.0, 0.5, 0.5, 0.0],
                               [0.0, 3.0, 5.0, 1.0], [1.0, 0.0, 0.0, 0.0]], requires_grad=True)
        members = torch.tensor([[0, 1, 3], [4, 5, -1]])
        loss, right = losses.choice_loss(logits, members, torch.tensor(2))
        first = -math.log(math.exp(1) / (math.exp(1) + math.exp(-3) + math.exp(0)))     # margins of refusing -1, 3, 0
        second = -math.log(math.exp(-2) / (math.exp(-2) + math.exp(1)))                  # 2, -1
        self.assertAlmostEqual(loss.item(), (first + second) / 2, places=5)
        self.assertEqual(right.item(), 0.5)
        loss.backward()
        self.assertEqual(logits.grad[2].abs().max().item(), 0)      # where no answer begins

    def test_members_are_where_answers_begin(self):
        sample = lambda prompt, answer: ([1] * prompt, [2] * answer, 1.0)
        groups = [[sample(5, 2), sample(3, 4), sample(1, 1)], [sample(9, 3)], [sample(2, 6), sample(2, 1)]]
        self.assertEqual(batches.members(groups).tolist(), [[0, 2, 6], [10, 16, -1]])
        self.assertIsNone(batches.members(groups[1:2]))


if __name__ == "__main__":
    unittest.main()
