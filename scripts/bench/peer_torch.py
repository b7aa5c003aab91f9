#!/usr/bin/env python3
"""The peer that Lockstep is measured against: the reference GAN in PyTorch. `npm run bench` starts it.

    peer_torch.py step --batch 64                  one process, as textbooks write it
    peer_torch.py step --batch 64 --lean           the fake images detached in the discriminator's step
    peer_torch.py step --batch 64 --processes 2    DistributedDataParallel over gloo; --batch is per process
    peer_torch.py step --batch 64 --lean --device cuda [--graph]
    peer_torch.py all-reduce --processes 2 --floats 2019857
    peer_torch.py mm --shapes '[[64, 256, 100, false, false]]'

Every process computes on one thread, or on a GPU. The last line printed is the result in JSON.
"""
import argparse
import gzip
import json
import os
import socket
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

PIXELS = 784
LATENT = 100


def dense(sizes, last):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1], last)


def load_images(folder):
    """(images, 784) in [-1, 1]; without a folder, as many random ones as MNIST has."""
    if folder is None:
        return torch.rand(60000, PIXELS) * 2 - 1
    path = os.path.join(folder, "train-images-idx3-ubyte")
    if os.path.exists(path):
        with open(path, "rb") as file:
            raw = file.read()
    else:
        with gzip.open(path + ".gz") as file:
            raw = file.read()
    pixels = torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=16)
    return pixels.reshape(-1, PIXELS).float() / 127.5 - 1


def join(rank, options):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port), GLOO_SOCKET_IFNAME=options.interface
    )
    dist.init_process_group("gloo", rank=rank, world_size=options.processes)


def captured(step):
    """The step as one CUDA graph, recorded after some steps on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step()

    def replay():
        graph.replay()
        return losses

    return replay


def run_step(rank, options):
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    alone = options.processes == 1
    device = torch.device(options.device)
    generator = dense([LATENT, 256, 512, 1024, PIXELS], nn.Tanh()).to(device)
    discriminator = dense([PIXELS, 512, 256, 1], nn.Sigmoid()).to(device)
    # Only what is trained goes through the wrappers, which reduce gradients after each of their forward calls.
    trained_generator, trained_discriminator = generator, discriminator
    if not alone:
        join(rank, options)
        trained_generator = nn.parallel.DistributedDataParallel(generator)
        trained_discriminator = nn.parallel.DistributedDataParallel(discriminator)
    adam = dict(lr=2e-4, betas=(0.5, 0.999))
    if options.graph:
        adam["capturable"] = True
    generator_optimizer = torch.optim.Adam(generator.parameters(), **adam)
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), **adam)
    images = load_images(options.data).to(device)
    batch, epsilon = options.batch, 1e-7

    def step():
        discriminator_optimizer.zero_grad()
        real = images[torch.randint(0, len(images), (batch,), device=device)]
        fake = generator(torch.randn(batch, LATENT, device=device))
        if options.lean or not alone:
            fake = fake.detach()
        if alone:
            real_output, fake_output = discriminator(real), discriminator(fake)
        else:
            # One forward call for both halves, so that gradients are reduced once.
            real_output, fake_output = trained_discriminator(torch.cat([real, fake])).split(batch)
        real_loss = -torch.log(real_output + epsilon).mean()
        fake_loss = -torch.log(1 - fake_output + epsilon).mean()
        discriminator_loss = (real_loss + fake_loss) / 2
        discriminator_loss.backward()
        discriminator_optimizer.step()

        generator_optimizer.zero_grad()
        output = discriminator(trained_generator(torch.randn(batch, LATENT, device=device)))
        generator_loss = -torch.log(output + epsilon).mean()
        generator_loss.backward()
        generator_optimizer.step()
        return discriminator_loss, generator_loss

    run = captured(step) if options.graph else step

    def logged_step():
        return [loss.item() for loss in run()]

    for _ in range(options.warmup):
        logged_step()
    if not alone:
        dist.barrier()
    blocks = []
    for _ in range(options.blocks):
        start = time.perf_counter()
        for _ in range(options.steps):
            logged_step()
        blocks.append((time.perf_counter() - start) / options.steps)
    if rank == 0:
        print(json.dumps({"msPerStep": statistics.median(blocks) * 1e3}), flush=True)
    if not alone:
        dist.destroy_process_group()


def run_all_reduce(rank, options):
    torch.set_num_threads(1)
    join(rank, options)
    values = torch.randn(options.floats)
    warmup = max(2, options.repetitions // 3)
    times = []
    for _ in range(warmup + options.repetitions):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - start)
        # Sums of sums would overflow in the end.
        values /= options.processes
    if rank == 0:
        print(json.dumps({"ms": statistics.median(times[warmup:]) * 1e3}), flush=True)
    dist.destroy_process_group()


def run_mm(options):
    torch.set_num_threads(1)
    seconds = []
    for rows, columns, inner, trans_a, trans_b in json.loads(options.shapes):
        a = torch.randn(inner, rows).t() if trans_a else torch.randn(rows, inner)
        b = torch.randn(columns, inner).t() if trans_b else torch.randn(inner, columns)
        out = torch.empty(rows, columns)
        # As many products as take some milliseconds.
        calls = max(1, round(2e8 / (2 * rows * columns * inner)))
        best = float("inf")
        for repetition in range(options.repetitions + 1):
            start = time.perf_counter()
            for _ in range(calls):
                torch.mm(a, b, out=out)
            # The first repetition warms up.
            if repetition > 0:
                best = min(best, (time.perf_counter() - start) / calls)
        seconds.append(best)
    print(json.dumps({"seconds": seconds}))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def parse_options():
    parser = argparse.ArgumentParser(description="The reference GAN in PyTorch, measured.")
    modes = parser.add_subparsers(dest="mode", required=True)
    step = modes.add_parser("step")
    step.add_argument("--batch", type=int, default=64, help="images per step and process")
    step.add_argument("--processes", type=int, default=1)
    step.add_argument("--steps", type=int, default=20, help="steps of a block")
    step.add_argument("--blocks", type=int, default=5, help="blocks, of which the median counts")
    step.add_argument("--warmup", type=int, default=20, help="steps before the first block")
    step.add_argument("--lean", action="store_true")
    step.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; with one process")
    step.add_argument("--graph", action="store_true", help="the step as one CUDA graph")
    step.add_argument("--data", help="folder with train-images-idx3-ubyte, gzip or raw")
    all_reduce = modes.add_parser("all-reduce")
    all_reduce.add_argument("--processes", type=int, default=2)
    all_reduce.add_argument("--floats", type=int, required=True)
    all_reduce.add_argument("--repetitions", type=int, default=30)
    mm = modes.add_parser("mm")
    mm.add_argument("--shapes", required=True, help="JSON: [[rows, columns, inner, trans_a, trans_b], ...]")
    mm.add_argument("--repetitions", type=int, default=10)
    for mode in (step, all_reduce):
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        mode.add_argument("--interface", default=loopback, help="network interface of gloo")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse_options()
    if arguments.mode == "mm":
        run_mm(arguments)
    else:
        run = run_step if arguments.mode == "step" else run_all_reduce
        arguments.port = free_port()
        if arguments.processes == 1:
            run(0, arguments)
        else:
            mp.spawn(run, (arguments,), nprocs=arguments.processes)
