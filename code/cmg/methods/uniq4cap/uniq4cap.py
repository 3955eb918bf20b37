"""Stage 2 (UniQ4Cap §3.3 and §3.4): a query transformer learns to tell, to judge and to write captions.

    L = w_mtc · MTC + w_mtm · MTM + w_mgm · MGM                     see `cmg.losses.captioning`

on the tokens of the frozen encoders of stage 1 (`--init-from`), or on the features as they are (`--encoders none`: the
row without pre-alignment). The paper names three losses, the released code trains MGM alone: `--w-mtc 0 --w-mtm 0`.

Choices of this project: of several captions of a clip one is drawn at each step; the rate rises over the warm-up and
falls as a cosine by steps, where the release warms up within its first epoch and falls by epochs; frozen encoders are
in eval mode, where the release leaves them in train mode; MTC moves both sides, `--mtc-gradient own` as the release; a
clip that has the very caption is no rival in MTM, `--rivals all` as the release. The gradient of
MTC, over a temperature, is some ten times that of MTM, which then learns nothing before MTC has done: `small`, whose
steps are few, gives MTC a tenth of the weight.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from cmg.cli import number, whole
from cmg.configs import Config, setting
from cmg.distributed import first_row, gather, share, total
from cmg.errors import UserError
from cmg.losses.captioning import among, contrast, draw, next_piece, rival_probabilities
from cmg.methods.contract import Recipe
from cmg.methods.uniq4cap.captions import CaptionMethod, CaptionsConfig, one_caption, shared_uniform
from cmg.methods.uniq4cap.prealign import refuse_heads
from cmg.models.uniq4cap.captioner import PAD, Captioner
from cmg.models.uniq4cap.encoders import ClipEncoder, EncodersConfig
from cmg.models.uniq4cap.public import start_from
from cmg.models.uniq4cap.transformer import TransformerConfig
from cmg.optimisation import OptimiserConfig


@dataclass(frozen=True)
class Uniq4CapConfig(Config):
    """Method uniq4cap (weight 0 removes a loss and its cost).

    Attributes
    ----------
    w_mtc : weight of the contrast of clips and captions
    w_mtm : weight of the matching of clips and captions
    w_mgm : weight of writing captions
    smoothing : share of a label that is spread over all, in MTC and MGM
    contrast_dim : of the space of MTC
    mtc_gradient : MTC moves both sides in each direction, or as in the release its own
    rivals : of a pair in MTM, clips that do not have its caption, or as in the release all others
    encoders : frozen ones of prealign, by --init-from, or none
    start_from : file with weights of BERT or of BLIP-2's query transformer that the transformer starts from
    """

    w_mtc: float = setting(1.0, number(least=0))
    w_mtm: float = setting(1.0, number(least=0))
    w_mgm: float = setting(1.0, number(least=0))
    smoothing: float = setting(0.1, number(least=0, below=1))
    contrast_dim: int = setting(64, whole(1))
    mtc_gradient: str = setting("both", choices=("both", "own"))
    rivals: str = setting("different", choices=("different", "all"))
    encoders: str = setting("aligned", choices=("aligned", "none"))
    start_from: str = setting("", metavar="FILE")
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    aligned: EncodersConfig = field(default_factory=EncodersConfig)


class Uniq4Cap(CaptionMethod):
    """Stage 2."""

    name = "uniq4cap"
    Config = Uniq4CapConfig
    starts_from_data = True
    recipes = {
        "small": Recipe(Uniq4CapConfig(w_mtc=0.1), OptimiserConfig(
            batch_size=64, optimizer="adamw", lr=1e-3, weight_decay=0.05, decay_norms=False, schedule="cosine",
            warmup_steps=30, clip_grad=1.0), epochs=30),
        "paper": Recipe(Uniq4CapConfig(contrast_dim=256, transformer=TransformerConfig(
            caption_width=768, caption_layers=12, caption_heads=12, caption_hidden=3072, queries=32,
            source_width=1408), aligned=EncodersConfig(aligned_width=1024, aligned_heads=16, aligned_dim=768,
                                                       cells=7)), OptimiserConfig(
            batch_size=128, optimizer="adamw", lr=2e-4, weight_decay=0.05, decay_norms=False, schedule="cosine",
            warmup_steps=5000, clip_grad=0.0), epochs=25),
    }

    def __init__(self, shapes, config):
        super().__init__()
        self.config = config
        self.model = self.rebuild(shapes, config)
        if config.start_from:
            start_from(self.model.transformer, config.start_from)

    @classmethod
    def rebuild(cls, shapes, config):
        encoders = nn.ModuleDict({m: ClipEncoder(shape, config.aligned) for m, shape in shapes.items()
                                  if m != "text" and config.encoders == "aligned"})
        return Captioner(shapes, encoders, config.captions.size, config.transformer, config.contrast_dim,
                         config.aligned.cells, bool(config.w_mtc and config.w_mtm))

    def taken_over(self, state, method):
        """Of stage 1 the encoders of what is captioned; another run of this stage is gone on from as it is."""
        if method == "prealign":
            if not self.model.encoders:
                raise UserError("--init-from: a checkpoint of prealign has encoders; expected --encoders aligned")
            own = self.model.state_dict()
            return own | {name: x for name, x in state.items() if name in own}
        return state

    def begin(self, carried):
        """Encoders that have learnt nothing would freeze noise."""
        for m, encoder in self.model.encoders.items():
            if not encoder.aligned:
                raise UserError(f"--encoders aligned: the encoder of {m} has learnt nothing; expected --init-from with "
                                "a checkpoint of --method prealign that knows it, or --encoders none")

    def encode(self, batch):
        model = self.model
        seen = {m: batch[m] for m in model.seen}
        source, exists = model.sources(seen, {m: batch[f"valid/{m}"] for m in seen})
        ids, _ = one_caption(batch["text"], batch["valid/text"])
        queries, prefix = model.asked(source, exists)
        return {"source": source, "exists": exists, "ids": ids, "captions": batch["text"], "queries": queries,
                "prefix": prefix}

    def losses(self, state):
        config, model, found = self.config, self.model, {}
        if config.w_mtc or config.w_mtm:
            queries, words = model.query_vectors(state["queries"]), model.text_vectors(model.read(state["ids"]))
            loss, of_clips, of_texts = contrast(queries, words, model.temperature, config.smoothing,
                                                config.mtc_gradient == "own")
            if config.w_mtc:
                found["mtc"] = config.w_mtc * loss
            if config.w_mtm:
                found["mtm"] = config.w_mtm * self.matching(state, of_clips, of_texts)
        if config.w_mgm:
            scores = model.following(state["prefix"], state["ids"])
            found["mgm"] = config.w_mgm * next_piece(scores, state["ids"], PAD, config.smoothing)
        return found

    def matching(self, state, of_clips, of_texts):
        """MTM on the pairs, on each caption with another clip, and on each clip with another caption, all drawn out of
        the batch of all processes. Where all others have the same caption, there is no rival to judge."""
        source, exists, ids = (state[name] for name in ("source", "exists", "ids"))
        all_ids, B = gather(ids), len(ids)
        uniform, first = shared_uniform(ids, 2), first_row(ids)
        same = [torch.zeros_like(scores, dtype=torch.bool) for scores in (of_texts, of_clips)]
        if self.config.rivals == "different":
            same = [among(ids, gather(state["captions"])), among(all_ids, state["captions"]).t()]
        clips, texts = (draw(rival_probabilities(scores, first, taken), uniform[:, side])
                        for side, (scores, taken) in enumerate(zip((of_texts, of_clips), same)))
        logits = self.model.matching(torch.cat([source, gather(source)[clips], source]),
                                     torch.cat([exists, gather(exists)[clips], exists]),
                                     torch.cat([ids, ids, all_ids[texts]]))
        labels = torch.arange(3, device=ids.device).eq(0).long().repeat_interleave(B)  # 1 where they belong together
        own = first + torch.arange(B, device=ids.device)
        some = torch.stack([torch.ones_like(own, dtype=torch.bool), *(
            (~taken).index_put((own - first, own), taken.new_zeros(())).any(1) for taken in same)])  # (3, B)
        state["judged"] = (logits.argmax(1) == labels).unflatten(0, (3, B)).t()
        state["rivalled"] = some.t()  # (B, 3)
        each = F.cross_entropy(logits, labels, reduction="none")
        return (each * some.flatten()).sum() / share(some.sum().to(each.dtype))

    def carry(self, state):
        return {name: state[name].detach() for name in ("judged", "rivalled") if name in state}

    def metrics(self, carried):
        """Share of MTM's pairs that are judged rightly; two thirds are what "never" gets."""
        if "judged" not in carried:
            return {}
        counted = carried["rivalled"]
        right = (carried["judged"] & counted).float()
        return {"matching/accuracy": total(right.sum()) / total(counted.float().sum())}

    def kept(self):
        return self.model

    @classmethod
    def refuse(cls, config, features):
        super().refuse(config, features)
        pieces = features.shapes["text"][1]
        if pieces > config.transformer.caption_words:
            raise UserError(f"--caption-words {config.transformer.caption_words}: captions of --data have {pieces} "
                            f"pieces; expected {pieces} at least")

    @classmethod
    def check(cls, config, recipe):
        refuse_heads(config.aligned)
        sizes = config.transformer
        if sizes.caption_width % sizes.caption_heads:
            raise UserError(f"--caption-width {sizes.caption_width}: expected a multiple of --caption-heads "
                            f"{sizes.caption_heads}")
        if not (config.w_mtc or config.w_mtm or config.w_mgm):
            raise UserError("--w-mtc 0 --w-mtm 0 --w-mgm 0: nothing to learn from; expected one above 0")
