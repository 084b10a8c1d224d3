"""The composite function task's steps: their rows, and mamba_ssm's steps as the peers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gpu_peers import Peer, Step, captured, in_a_line, note
from rows import Row

MIXERS = ("Mamba-1", "Mamba-2")


def composite_rows(layers: list[int]) -> list[Row]:
    rows = [Row("training_step", mixer, 2048, n) for mixer in MIXERS for n in layers]
    return rows + [Row("forward", mixer, 2048) for mixer in MIXERS]


def mamba_ssm_model(mixer: str, layers: int = 2) -> Any:
    """Ids (B,L) to the last token's logits (B,V), under mamba_ssm's names; initialised by the law with gamma 1."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from torch import nn
    from torch.nn import functional as F
    from torch_models import D, E, K, N, V

    ssm: dict[str, Any] = {"layer": mixer.replace("-", ""), "d_state": N, "d_conv": K, "expand": E // D}
    if mixer == "Mamba-2":
        ssm["headdim"] = E

    class Composite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = MambaConfig(d_model=D, n_layer=layers, vocab_size=V, ssm_cfg=ssm)
            self.backbone = MambaLMHeadModel(config).backbone
            for name, parameter in self.named_parameters():
                if "weight" in name and parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=1 / parameter.shape[0])
                elif "bias" in name:
                    nn.init.zeros_(parameter)

        def forward(self, ids: Any) -> Any:
            return F.linear(self.backbone(ids)[:, -1], self.backbone.embedding.weight[:V])

    return Composite()


class CompositePeers:
    """Makes mamba_ssm's steps; of a mixer that does not compute what the reference numbers say, none."""

    def __init__(self, reference: Path | None) -> None:
        self.unfit = {mixer: why_not(mixer, reference) for mixer in MIXERS}

    def start(self, row: Row) -> dict[str, Peer]:
        """The row's peers, warmed up; notes in the row which are left out, and why."""
        unfit = self.unfit[row.mixer]
        if unfit:
            row.left_out["mamba_ssm"] = unfit
            return {}
        peers: dict[str, Peer] = {}
        for label in ("eager", "graph"):
            try:
                step = make_step(row)
                for _ in range(3):
                    step()
                peers[label] = Peer(captured(step) if label == "graph" else step)
                peers[label].milliseconds()
            except Exception as error:  # whatever a compiler or a capture raises; the others go on
                peers.pop(label, None)
                row.left_out[label] = in_a_line(error)
                note(f"{row.title()}: {label} left out: {row.left_out[label]}")
        return peers


def make_step(row: Row) -> Step:
    import torch
    from torch_models import LENGTH, V, ForwardPass, TrainingStep

    torch.manual_seed(0)
    ids = torch.randint(V, (row.batch, LENGTH), device="cuda")
    labels = torch.randint(V, (row.batch,), device="cuda")
    model = mamba_ssm_model(row.mixer, row.layers).cuda()
    if row.what == "forward":
        return ForwardPass(model, ids, labels, model)
    step = TrainingStep(model, ids, labels, model)
    step.optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-4, weight_decay=1e-2, fused=True, capturable=True)
    return step


def why_not(mixer: str, reference: Path | None) -> str | None:
    """Why the peer cannot be timed, if it does not run or not compute what the reference numbers say."""
    if not reference:
        return None
    from reference_check import check

    try:
        agrees = check(reference, {(mixer, "mamba_ssm"): partial(mamba_ssm_model, mixer)}, note, "cuda")
        return None if agrees else "does not compute what the reference numbers say"
    except Exception as error:  # whatever a kernel or its compiler raises
        return in_a_line(error)
