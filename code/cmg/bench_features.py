"""What a bench measures on: random features of known shapes."""

import torch

SHAPES = {
    "paper": {"video": (10, 7, 7, 512), "audio": (10, 128), "text": (10, 768)},
    "digits": {"video": (10, 7, 7, 244), "audio": (10, 640), "text": (10, 300)},
    "howto100m": {"video": (12, 4096), "audio": (12, 64, 40), "text": (20, 300)},
    "raw": {"video": (9, 224, 224, 3), "audio": (9, 224, 224)},
    "captions": {"video": (10, 7, 7, 512), "audio": (10, 128), "text": (5, 32)},
    "tiny": {"video": (5, 5, 5, 8), "audio": (5, 12), "text": (5, 10)},
}


PIECES = {"captions": 8000}  # of words, where text is captions as numbers of them


class RandomFeatures:
    """Stands in for a `FeatureSet` of n clips: float16 features, or uint8 frames, all on the device; captions of
    `pieces`, int32, where text is these."""

    cache = "device"

    def __init__(self, shapes, n, device, pieces=0):
        self.shapes, self.ids, self.device = shapes, range(n), device
        generator = torch.Generator(device).manual_seed(0)
        self.features = {m: torch.empty(n, *shape, dtype=torch.uint8 if shape[3:] == (3,) else torch.float16,
                                        device=device) for m, shape in shapes.items()}
        for x in self.features.values():
            for part in x.split(1024):  # no second copy of the set
                if x.dtype == torch.uint8:
                    part.random_(generator=generator)
                else:
                    part.normal_(generator=generator)
        if pieces:
            self.features["text"] = torch.randint(1, pieces, (n, *shapes["text"]), generator=generator, device=device,
                                                  dtype=torch.int32)

    def __len__(self):
        return len(self.ids)

    def draw(self, seed, epoch):
        """There are no captions to choose from."""

    def stored(self, rows):
        index = torch.as_tensor(rows).to(self.device, non_blocking=True)
        batch = {m: x.index_select(0, index) for m, x in self.features.items()}
        return batch | {f"valid/{m}": torch.ones(x.shape[:2], dtype=torch.bool, device=self.device)
                        for m, x in batch.items()}
