"""Started on two processes: gradients of halves of a batch under DDP, held against those of the whole batch."""

import torch
import torch.distributed as dist
from test_sample_dropout import SEEDS, clips, tiny
from torch.nn.parallel import DistributedDataParallel

from timesformer_plus.engine.sample_dropout import per_sample_dropout

dist.init_process_group("gloo")
torch.set_num_threads(1)
network = tiny(depth=1)
network.register_buffer("counter", torch.zeros(1))  # something for DDP to send around
dropout, x = per_sample_dropout(network), clips()[:4]
dropout.seed(SEEDS[:4])
network(x).square().mean().backward()
expected = [parameter.grad.clone() for parameter in network.parameters()]
network.zero_grad()
model = DistributedDataParallel(network)
own = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
for _ in range(2):  # buffers are sent from the second pass on at the latest
    network.zero_grad()
    dropout.seed(SEEDS[own])
    model(x[own]).square().mean().backward()
for parameter, gradient in zip(network.parameters(), expected, strict=True):
    torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12)
print("gradients are the same", flush=True)
dist.destroy_process_group()
