"""A toy memory and a teacher's odds learnt by heart: every gradient path; what checkpointing and dropout leave as it is."""
import unittest

import torch

from training import batches, frames, losses
from training.data import Batch
from training.model import MsaConfig, MsaModel
from training.tests import toy
from training.tests.test_training import STAGE, ToyCase
from training.train import step_loss


class OverfitTest(ToyCase):
    def test_recall_and_answers_become_exact(self):
        """Every gradient path: routers, pooled K and V, the reader, all weights."""
        model = MsaModel(str(self.folder), MsaConfig((2, 3), pool=4, top_k=2, lora_rank=0))
        batch = self.batch(pool=4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(160):
            loss, log = step_loss(model, batch, STAGE)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        self.assertEqual(log["top1_first"].item(), 1.0)
        with torch.no_grad():
            out = model.run(model.merged(), batch.docs, batch.reading[0], (batch.groups[0].queries,))
            labels = batch.groups[0].queries.labels
            learnt = labels >= 0
            self.assertTrue(torch.equal(model.logits(out.hidden[0][learnt]).argmax(-1), labels[learnt]))
            said = model.logits(out.reading[batch.reading[1]]).argmax(-1)
            self.assertTrue(torch.equal(said, batch.reading[2]))

    def test_every_parameter_has_a_gradient(self):
        for rank in (0, 4):
            model = MsaModel(str(self.folder), MsaConfig((1, 3), pool=4, top_k=2, lora_rank=rank, lora_alpha=rank))
            for stack in model.lora_b.values():
                torch.nn.init.normal_(stack, std=0.02)
            step_loss(model, self.batch(pool=4), STAGE)[0].backward()
            for name, parameter in model.named_parameters():
                self.assertIsNotNone(parameter.grad, name)
                self.assertGreater(parameter.grad.abs().max().item(), 0, name)

    def test_gradient_checkpointing_changes_nothing(self):
        grads = []
        for checkpointing in (False, True):
            torch.manual_seed(1)
            model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4), checkpointing=checkpointing)
            step_loss(model, self.batch(pool=4), STAGE)[0].backward()
            grads.append(model.routers["2/q"].grad)
        torch.testing.assert_close(*grads)


    def test_dropout_is_of_training_alone(self):
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4), dropout=0.5)
        same = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4))
        same.load_state_dict(model.state_dict())
        batch = self.batch(pool=4)
        with torch.no_grad():
            self.assertEqual(step_loss(model, batch, STAGE)[0].item(), step_loss(same, batch, STAGE)[0].item())
        one, two = (step_loss(model, batch, STAGE)[0].item() for _ in range(2))
        self.assertNotEqual(one, two)
        self.assertEqual(step_loss(same, batch, STAGE)[0].item(), step_loss(same, batch, STAGE)[0].item())

    def test_a_teachers_odds_are_learnt_and_the_right_reading_is_chosen(self):
        """Four questions over their own text, which answers, and over another's, which a teacher would refuse, more or less surely."""
        texts, asked, odds = toy.documents(), toy.questions(), (-1.0, 0.5, 2.0, 4.0)
        prompt = lambda q, number: frames.encode(self.tokenizer, frames.reader_prompt(q, [(number, texts[number])]))
        said = lambda text: frames.encode(self.tokenizer, f"{text}<|im_end|>")
        groups = [[batches.Sample(prompt(q, i), said(a)), batches.Sample(prompt(q, i + 1), said(frames.REFUSAL), 0.0, o)]
                  for i, ((q, a), o) in enumerate(zip(asked, odds))]
        samples = sum(groups, [])
        batch = Batch("toy", None, [], batches.reading(samples), 0, None, batches.members(groups), batches.weighed(samples))
        stage = {**STAGE, "loss": {"routing": 1.0, "reading": 1.0, "choice": 0.1, "refuse": 1.0}}
        torch.manual_seed(0)
        model = MsaModel(str(self.folder), MsaConfig((2, 3), pool=4, top_k=2, lora_rank=0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(150):
            loss, log = step_loss(model, batch, stage)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.assertEqual(log["chosen"].item(), 1.0)
        packed, places, targets, _ = batch.reading
        with torch.no_grad():
            logits = model.logits(model.run(model.merged(), reading=packed).reading[places])
        begin = batch.weighed[0]
        learnt = losses.log_odds(logits[begin], targets[begin])
        self.assertLess((learnt - torch.tensor(odds)).abs().max().item(), 0.5)


if __name__ == "__main__":
    unittest.main()
