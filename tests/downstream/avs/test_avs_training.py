"""Training of the segmentation network: what it can learn, and how clips are distorted."""

import torch

from cmg.downstream.avs.losses import first_frame_bce
from cmg.downstream.avs.networks import Segmenter
from cmg.downstream.avs.training import distorted
from cmg.metrics.segmentation import frame_iou


def test_four_clips_are_learnt_by_heart():
    torch.manual_seed(0)
    frames, masks = 0.3 * torch.rand(3, 32, 32).repeat(4, 2, 1, 1, 1), torch.zeros(4, 2, 32, 32).bool()
    query = torch.eye(4)[:, None].repeat(1, 2, 1)
    for clip in range(4):  # four times the same two bright squares; only the query says which one is meant
        frames[clip, :, :, 4:14, 4:14] = 0.9
        frames[clip, :, 0, 18:28, 18:28] = 0.9
        masks[clip, :, 4:14, 4:14] = clip % 2 == 0
        masks[clip, :, 18:28, 18:28] = clip % 2 == 1
    net = Segmenter(4, "tiny", channels=16, dilations=(1,), fusion=(0, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(80):
        loss = first_frame_bce(net(frames, query).logits, masks[:, :1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = net.train()(frames, query).logits
    assert frame_iou(logits.flatten(0, 1), masks.flatten(0, 1)).mean() > 0.95
    swapped = net(frames, query.roll(1, 0)).logits  # another query, another mask
    assert frame_iou(swapped.flatten(0, 1), masks.flatten(0, 1)).mean() < 0.3


def test_distortion_moves_frames_and_masks_alike():
    torch.manual_seed(0)
    frames, masks = torch.zeros(3, 5, 3, 32, 32), torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    frames[..., 8:20, 12:18], masks[..., 8:20, 12:18] = 1, True
    moved, moved_masks = distorted(frames, masks, 0.15)
    assert frame_iou(moved[:, 3, 1] - 0.5, moved_masks[:, 0]).min() > 0.85  # edges are smoothed in frames alone
    assert frame_iou(moved[:, 3, 1] - 0.5, masks[:, 0]).max() < 0.85
    assert torch.equal(moved[:, 0], moved[:, 4]) and not torch.equal(moved_masks[0], moved_masks[1])
    same, same_masks = distorted(frames, masks, 0.0)
    torch.testing.assert_close(same, frames, atol=1e-5, rtol=0)
    assert torch.equal(same_masks, masks)
