import torch
from torch import nn

from patchword.layers.momentum import KeyQueue, follow, key_copy


def test_keys_follow_parameters_and_leave_buffers_alone() -> None:
    trained = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    key = key_copy(trained)
    assert not any(p.requires_grad for p in key.parameters())
    assert all(p.requires_grad for p in trained.parameters())
    before = {name: p.clone() for name, p in key.named_parameters()}
    with torch.no_grad():
        for p in trained.parameters():
            p += 1.0
    trained.train()(torch.randn(4, 2))  # moves the statistics
    follow([key], [trained], 0.9)
    for name, p in key.named_parameters():
        torch.testing.assert_close(p, before[name] * 0.9 + (before[name] + 1.0) * 0.1)
    assert torch.equal(key.get_buffer("1.running_mean"), torch.zeros(2))
    follow([key], [trained], 0.0)
    assert all(torch.equal(a, b) for a, b in zip(key.parameters(), trained.parameters(), strict=True))


def test_the_queue_replaces_the_oldest_keys() -> None:
    queue = KeyQueue(1, 4)
    torch.testing.assert_close(queue.images.norm(dim=1), torch.ones(4))
    start = queue.captions.clone()
    for k in range(3):
        assert queue.is_full is (k == 2)
        batch = torch.tensor([[2.0 * k], [2.0 * k + 1]])
        queue.push(batch, -batch)
        if k == 0:
            assert torch.equal(queue.captions[2:], start[2:])
    assert queue.images[:, 0].tolist() == [4.0, 5.0, 2.0, 3.0]
    assert queue.captions[:, 0].tolist() == [-4.0, -5.0, -2.0, -3.0]


def test_batches_that_do_not_divide_the_queue() -> None:
    queue = KeyQueue(1, 4)
    for start in (0, 3, 6):
        batch = torch.arange(start, start + 3.0)[:, None]
        queue.push(batch, batch)
    assert queue.images[:, 0].tolist() == [8.0, 5.0, 6.0, 7.0]
    assert int(queue.seen) == 9
    large = torch.arange(10.0)[:, None]
    queue.push(large, large)
    assert sorted(queue.images[:, 0].tolist()) == [6.0, 7.0, 8.0, 9.0]
    assert queue.is_full


def test_the_queue_survives_its_state_dict() -> None:
    queue, other = KeyQueue(2, 3), KeyQueue(2, 3)
    queue.push(torch.ones(2, 2), torch.zeros(2, 2))
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.push(torch.full((2, 2), 5.0), torch.full((2, 2), 6.0))
    assert torch.equal(queue.images, other.images)
    assert torch.equal(queue.captions, other.captions)
    assert queue.is_full
    assert other.is_full
