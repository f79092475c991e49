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
        alone = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
        loss, right = losses.choice_loss(logits, members, alone, torch.tensor(2))
        first = -math.log(math.exp(1) / (math.exp(1) + math.exp(-3) + math.exp(0)))     # margins of refusing -1, 3, 0
        second = -math.log(math.exp(-2) / (math.exp(-2) + math.exp(1)))                  # 2, -1
        self.assertAlmostEqual(loss.item(), (first + second) / 2, places=5)
        self.assertEqual(right.item(), 0.5)
        loss.backward()
        self.assertEqual(logits.grad[2].abs().max().item(), 0)      # where no answer begins
        shared, right = losses.choice_loss(logits, members, torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]), torch.tensor(2))
        each = [-math.log(math.exp(-m) / (math.exp(1) + math.exp(-3) + math.exp(0))) for m in (-1, 3, 0)]
        second = -math.log(math.exp(1) / (math.exp(-2) + math.exp(1)))
        self.assertAlmostEqual(shared.item(), (0.25 * each[0] + 0.75 * each[2] + second) / 2, places=5)
        self.assertEqual(right.item(), 0.5)

    def test_refusing_by_hand(self):
        """The student refuses with 1/2 and 1/4 where the teacher would with 3/4 and 1/4."""
        logits = torch.tensor([[7.0, 7, 7], [0.0, 0.0, math.log(2)], [5.0, 5, 5], [math.log(2), 0.0, 0.0]])
        odds = torch.tensor([math.log(3), -math.log(3)])
        loss = losses.refusing_loss(logits, torch.tensor([1, 3]), odds, torch.tensor(2))
        first = -math.log(0.5)
        second = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
        self.assertAlmostEqual(loss.item(), (first + second) / 2, places=5)

    def test_members_are_where_answers_begin(self):
        sample = lambda prompt, answer, *odds: batches.Sample([1] * prompt, [2] * answer, 1.0, *odds)
        groups = [[sample(5, 2), sample(3, 4), sample(1, 1)], [sample(9, 3)], [sample(2, 6), sample(2, 1)]]
        members, shares = batches.members(groups)
        self.assertEqual(members.tolist(), [[0, 2, 6], [10, 16, -1]])
        self.assertEqual(shares.tolist(), [[1, 0, 0], [1, 0, 0]])
        self.assertIsNone(batches.members(groups[1:2]))
        self.assertIsNone(batches.weighed(sum(groups, [])))
        groups[0][1:] = [sample(3, 4, 0.0), sample(1, 1, math.log(3))]      # a half and a quarter likely to answer, beside one that does
        torch.testing.assert_close(batches.members(groups)[1][0], torch.tensor([4 / 7, 2 / 7, 1 / 7]))
        places, odds = batches.weighed(sum(groups, []))
        self.assertEqual(places.tolist(), [2, 6])
        torch.testing.assert_close(odds, torch.tensor([0.0, math.log(3)]))


if __name__ == "__main__":
    unittest.main()
