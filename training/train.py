"""Trains an MSA model: `python -m training.train configs/x.yaml [--resume] [key=value ...]`, also under torchrun.

Stages run in order. Each has a share of wall time (`seconds`) or a number of `steps`, a mix of batches and loss
weights. Loss = routing * L_aux + reading * L_LM(answer | texts) + choice * L_choice(readings) + refuse * L_refusing(teacher) + memory * L_LM(answer | pooled K, V). A checkpoint is
written to a temporary name and renamed, so an interrupt leaves the last one whole; resuming repeats the same batches
and their lines of the curve.
"""
from __future__ import annotations

import argparse
import io
import json
import math
import os
import pickle
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from training import losses, tool
from training.adapter_io import load_adapter, save_adapter
from training.data import Batch, Group, TrainingSet
from training.exchange import Exchange, Recent
from training.files import replace_file
from training.model import MsaConfig, MsaModel, Result
from training.settings import load_config


def msa_config(config: dict) -> MsaConfig:
    a = config["adapter"]
    return MsaConfig(tuple(a["router_layers"]), a["pool"], a["top_k"], a["lora_rank"], a["lora_alpha"],
                     a.get("similarity", "cosine") == "cosine", config["msa_extra"].get("reader_question", "after"),
                     config["msa_extra"].get("reader_attention", "causal"))


def with_others(model: MsaModel, batch: Batch, out: Result, exchange: Exchange | Recent) -> list[tuple[Group, dict]]:
    """Each group and its scores by layer, widened by other processes' or batches' documents as further negatives.

    A document that this batch holds too counts once: the copy from elsewhere is ignored."""
    others = exchange.documents(out.memory.keys, out.memory.table, batch.names)
    if others is None:
        return list(zip(batch.groups, out.scores))
    known = torch.isin(others.names, batch.names)
    wide = []
    for group, scores, folded in zip(batch.groups, out.scores, out.folded):
        more = {layer: model.score_again(folded[layer], others.keys[layer], others.table, group.queries) for layer in scores}
        none = torch.zeros(len(group.positive), len(known), dtype=torch.bool, device=known.device)
        wide.append((Group(group.queries, torch.cat((group.positive, none), 1),
                           torch.cat((group.ignored, none | known), 1)),
                     {layer: torch.cat((scores[layer], more[layer]), 1) for layer in scores}))
    return wide


def step_loss(model: MsaModel, batch: Batch, stage: dict, exchange: Exchange | Recent | None = None) -> tuple[torch.Tensor, dict]:
    """All losses of one batch, and what to log."""
    layers = model.merged()
    weight, tau = stage["loss"], stage["temperature"]
    log, total = {}, 0.0
    reading = batch.reading and batch.reading[0]
    out = model.run(layers, batch.docs, reading, tuple(g.queries for g in batch.groups), attend=stage["attend"])
    routed = with_others(model, batch, out, exchange) if exchange and batch.docs else \
        list(zip(batch.groups, out.scores))
    for name, (group, scores), hidden in zip(("first", "later"), routed, out.hidden):
        aux = losses.routing_loss(scores, group.positive, group.ignored, tau)
        total = total + weight["routing"] * aux * (1.0 if name == "first" else weight.get("later", 0.3))
        log["aux_" + name] = aux.detach()
        mean = torch.stack(list(scores.values())).mean(0).detach().masked_fill(group.ignored, float("-inf"))
        asked = group.positive.any(-1)
        log["top1_" + name] = group.positive.gather(1, mean.argmax(-1, keepdim=True)).sum() / asked.sum().clamp(min=1)
        if name == "later" and weight.get("stop"):
            mean_score = torch.stack(list(scores.values())).mean(0)
            stop = losses.stop_loss(mean_score, group.positive, group.ignored, tau, stage["stop_level"])
            total, log["stop"] = total + weight["stop"] * stop, stop.detach()
            best = mean_score.detach().masked_fill(group.ignored, float("-inf")).amax(-1)
            log["stop_right"] = ((best > stage["stop_level"]) == group.positive.any(-1)).float().mean()
        if weight.get("memory") and group.queries.labels is not None:
            learnt = group.queries.labels >= 0
            lm = losses.answer_loss(model.logits(hidden[learnt]), group.queries.labels[learnt])
            total, log["memory"] = total + weight["memory"] * lm, lm.detach()
    if batch.reading:
        _, places, targets, weights = batch.reading
        logits = model.logits(out.reading[places])
        lm = losses.answer_loss(logits, targets, weights)
        total, log["reading"] = total + weight["reading"] * lm, lm.detach()
        if batch.members is not None and weight.get("choice"):
            members, shares = batch.members
            refusing = targets[members[0, 1]]       # what all but a group's first member learn
            choice, log["chosen"] = losses.choice_loss(logits, members, shares, refusing)
            total, log["choice"] = total + weight["choice"] * choice, choice.detach()
        if batch.weighed is not None and weight.get("refuse"):
            places, odds = batch.weighed
            refuse = losses.refusing_loss(logits, places, odds, targets[places[0]])
            total, log["refuse"] = total + weight["refuse"] * refuse, refuse.detach()
    return total, log


class Trainer:
    def __init__(self, config: dict):
        self.config = config
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() \
            else torch.device("cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.exchange = Exchange() if self.world > 1 else None
        torch.manual_seed(config["seed"])
        torch.multiprocessing.set_sharing_strategy("file_system")  # many tensors a batch: spare the descriptors
        torch.backends.cuda.matmul.allow_tf32 = True
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.model = MsaModel(config["base"], msa_config(config), dtype, compiled=config.get("compile", False),
                              checkpointing=config.get("checkpointing", False), dropout=config.get("dropout", 0.0))
        if config.get("init"):  # start from an adapter's weights instead of anew
            load_adapter(self.model, config["init"])
        self.model = self.model.to(self.device)
        self.out = Path(config["out"])
        self.out.mkdir(parents=True, exist_ok=True)
        self.curve = self.out / "curve.jsonl"
        self.stage_index, self.step, self.spent, self.recent = 0, 0, 0.0, None
        self.kept = "no checkpoint yet; the next run begins anew"
        self.optimizer = self._optimizer()

    def _optimizer(self):
        m, lr = self.model, self.config["lr"]
        groups = [{"params": [*m.lora_a.values(), *m.lora_b.values()], "peak": lr["lora"]},
                  {"params": list(m.routers.values()), "peak": lr["routers"]}]
        if m.full is not None:
            groups.append({"params": list(m.full.values()), "peak": lr["full"]})
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=(0.9, 0.98),
                                 weight_decay=self.config.get("decay", 0.01), fused=self.device.type == "cuda")

    def progress(self, stage: dict) -> float:
        steps = (self.step / stage["steps"] if stage["steps"] > 0 else 1.0) if "steps" in stage else 0.0
        spent = self.spent / max(stage["seconds"], 1e-9) if "seconds" in stage else 0.0
        return max(steps, spent)

    def set_rates(self, stage: dict) -> None:
        """Linear rise over `rise` steps, then cosine to `floor` of the stage's peak."""
        done, floor = min(1.0, self.progress(stage)), stage.get("floor", 0.05)
        shape = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        rise = min(1.0, (self.step + 1) / stage.get("rise", 50))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * stage.get("lr", 1.0) * shape * rise

    def loader(self, stage: dict, neighbours) -> DataLoader:
        c = self.config
        data = TrainingSet(c["bundle"], c.get("tokenizer") or f"{c['base']}/tokenizer.json", stage, c["seed"],
                           c["adapter"]["top_k"], c["adapter"]["pool"], neighbours, c.get("made"), self.world, c.get("labels"),
                           self.model.msa.reader_question, self.model.msa.reads_full)
        first, workers = self.step, c.get("workers", 0)
        order = range(first * self.world + self.rank, 1 << 30, self.world)
        return DataLoader(data, batch_size=None, sampler=order, num_workers=workers,
                          prefetch_factor=2 if workers else None, multiprocessing_context="fork" if workers else None)

    def average_gradients(self) -> None:
        if self.world > 1:
            for p in self.model.parameters():
                if p.grad is not None:
                    dist.all_reduce(p.grad, dist.ReduceOp.AVG)

    def train_step(self, batch: Batch, stage: dict) -> dict:
        loss, log = step_loss(self.model, batch.to(self.device), stage, self.exchange or self.recent)
        loss.backward()
        self.average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.set_rates(stage)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**log, "loss": loss.detach(), "norm": norm}

    def run_stage(self, stage: dict, neighbours) -> None:
        stage = self.before_deadline(stage)
        self.recent = Recent(stage["recent"]) if stage.get("recent") else None
        mean, tokens, mark = {}, 0, time.time()
        last, saved = time.time(), time.time()
        for batch in self.loader(stage, neighbours):
            if self.progress(stage) >= 1:
                break
            for key, value in self.train_step(batch, stage).items():
                mean.setdefault(f"{batch.kind}.{key}" if "_" in key else key, []).append(value)
            tokens += batch.tokens
            self.step += 1
            now = time.time()
            self.spent, last = self.spent + now - last, now
            if self.exchange:  # one clock: all stop at the same step
                self.spent = self.exchange.from_first(self.spent)
            if self.step % self.config.get("log_every", 50) == 0:
                self.refuse_nan(stage, mean["loss"])
                self.log(stage, mean, tokens / (time.time() - mark))
                mean, tokens, mark = {}, 0, time.time()
            if now - saved > self.config.get("save_seconds", 60):
                self.refuse_nan(stage, mean.get("loss") or [torch.zeros(())])
                self.save()
                saved = last = time.time()

    def before_deadline(self, stage: dict) -> dict:
        """The stage, shortened to end at the wall time `until` (seconds since 1970) where the run has one."""
        if "until" not in self.config:
            return stage
        left = self.config["until"] - time.time() + self.spent
        left = max(0.0, self.exchange.from_first(left) if self.exchange else left)
        return {**stage, "seconds": min(stage.get("seconds", left), left)}

    def log(self, stage: dict, recent: dict, rate: float) -> None:
        if self.rank:
            return
        line = {k: round(torch.stack(v).float().mean().item(), 4) for k, v in sorted(recent.items())}
        line |= {"stage": stage["name"], "step": self.step, "spent": round(self.spent, 1),
                 "tokens_per_s": round(rate)}
        with self.curve.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def refuse_nan(self, stage: dict, recent: list[torch.Tensor]) -> None:
        """Looked at only when logging: each look waits for the device."""
        if not torch.isfinite(torch.stack(recent)).all():
            raise SystemExit(f"stage {stage['name']} step {self.step}: loss is not finite; last checkpoint is kept")

    def save(self) -> None:
        if self.rank:
            return
        state = {"stage": self.stage_index, "step": self.step, "spent": self.spent,
                 "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "adapter": self.config["adapter"], "curve": self.curve.stat().st_size if self.curve.exists() else 0}
        image = io.BytesIO()    # torch's own writer hides why a disk refuses
        torch.save(state, image)
        try:
            replace_file(self.out / "checkpoint.pt", image.getbuffer())
            save_adapter(self.model, str(self.out / "adapter"), self.config["base_name"], self.config["msa_extra"])
        except OSError as error:
            raise SystemExit(f"{self.out}: could not be written ({error}); the last checkpoint is kept") from error
        self.note_kept()

    def note_kept(self) -> None:
        stages = self.config["stages"]
        self.kept = f"the last checkpoint is of stage {stages[self.stage_index]['name']} step {self.step}; go on with --resume" \
            if self.stage_index < len(stages) else "the run is finished"

    def cut_curve(self, size: int) -> None:
        """What was logged after the checkpoint is logged again."""
        if not self.rank and self.curve.exists() and self.curve.stat().st_size > size:
            os.truncate(self.curve, size)

    def begin_curve(self) -> None:
        """A run that begins anew does not go on with another's curve, nor throw it away."""
        if not self.rank and self.curve.exists():
            os.replace(self.curve, self.out / "curve.before.jsonl")

    def resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            self.begin_curve()
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path}: not a whole checkpoint; give another out, and init={self.out / 'adapter'} to start from "
                             "the weights saved beside it") from error
        if state["adapter"] != self.config["adapter"]:
            raise SystemExit(f"{path} was made with adapter {state['adapter']}, the configuration says "
                             f"{self.config['adapter']}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stage_index, self.step, self.spent = state["stage"], state["step"], state["spent"]
        self.cut_curve(state.get("curve", 1 << 62))     # earlier checkpoints do not say
        self.note_kept()

    def neighbours(self):
        path = self.config.get("neighbours")
        try:
            return np.load(path) if path else None
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not what neighbours.py writes ({error}); make it again") from error

    def run(self) -> None:
        neighbours = self.neighbours()
        stages = self.config["stages"]
        while self.stage_index < len(stages):
            self.run_stage(stages[self.stage_index], neighbours)
            self.stage_index, self.step, self.spent = self.stage_index + 1, 0, 0.0
            self.save()
        if self.world > 1:
            dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    args = parser.parse_intermixed_args()     # --resume may stand before the overrides
    config = load_config(args.config, args.overrides)
    if not args.resume and (Path(config["out"]) / "checkpoint.pt").exists():
        raise ValueError(f"{config['out']}: holds the checkpoint of an earlier run; give --resume to go on with it, or another out")
    trainer = Trainer(config)
    if not args.resume:
        trainer.begin_curve()
    else:
        trainer.resume()
        if trainer.stage_index >= len(config["stages"]) and not trainer.rank:
            print(f"{config['out']}: the run is finished, its adapter is {trainer.out / 'adapter'}; nothing to do")
    try:
        trainer.run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted" if trainer.rank else f"interrupted; {trainer.kept}") from None


if __name__ == "__main__":
    tool.run(main)
