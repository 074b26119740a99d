"""Several processes train as one would, with different data and different amounts of it in each."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vlmcourse.train import distributed
from vlmcourse.train.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow

LOSSES = ("gathered_loss", "shared_loss", "shared_chunked_loss", "loss_of_own_rows", "supervised_loss")
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1]), "VLMCOURSE_DEVICE": "cpu"}

SCRIPT = """
import sys, torch
from vlmcourse.train.distributed import gather_embeddings, rank, world_size
from vlmcourse.train.loop import fit
from vlmcourse.ops.contrastive import nt_xent_loss

def loss_fn(model, images):
    views = (images + 0.1 * torch.randn_like(images) for _ in range(2))
    z1, z2 = (gather_embeddings(model(view)) for view in views)
    return nt_xent_loss(z1, z2, temperature=0.2), {"rows": torch.tensor(float(len(z1)))}

torch.manual_seed(rank())  # different weights to begin with: process 0 decides
encoder = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5)
)
images = torch.randint(256, (31, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
history = fit(
    encoder, loss_fn, images, lr=1e-3, batch_size=16, steps=int(sys.argv[1]), checkpoint=sys.argv[2],
    checkpoint_every=10**6,
)
weights = torch.cat([p.detach().flatten() for p in encoder.parameters()])
assert torch.equal(distributed_mean(weights), weights), "the processes hold different weights"
print(f"process {rank()} of {world_size()}: {len(history)} steps, {history.rows.min():.0f} rows", flush=True)
""".replace("distributed_mean", "__import__('vlmcourse.train.distributed', fromlist=['_']).mean_over_processes")


@pytest.fixture(scope="module")
def differences():
    command = [sys.executable, HERE / "parallel_runs.py"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def torchrun(tmp_path, *arguments):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, *arguments]
    return subprocess.Popen(launch, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("loss", LOSSES)
def test_processes_with_unequal_data_have_the_gradient_of_one_process(differences, processes, loss):
    measured = {name: value for name, value in differences[processes].items() if name.startswith(f"{loss} ")}
    assert len(measured) == 8
    assert all(value <= (1e-12 if "float64" in name else 1e-6) for name, value in measured.items()), measured


@pytest.mark.parametrize("processes", ["2", "4"])
def test_a_run_on_several_processes_continues_as_if_it_had_not_failed(differences, processes):
    # Not to the last bit: DistributedDataParallel sums in another order in the first step after a start.
    assert differences[processes]["resumed"] <= 1e-6


def test_torchrun_trains_on_two_processes_with_one_checkpoint(tmp_path):
    process = torchrun(tmp_path, "5", str(tmp_path / "run.pt"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "process 0 of 2: 5 steps, 15 rows" in output, output
    assert "process 1 of 2: 5 steps, 15 rows" in output, output
    assert load_checkpoint(tmp_path / "run.pt")["step"] == 5


def test_ctrl_c_under_torchrun_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path):
    path = tmp_path / "run.pt"
    process = torchrun(tmp_path, "100000", str(path))
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)  # into the steps
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert load_checkpoint(path)["step"] > 0, output  # no regular checkpoint was due
    assert "the same call continues" in output


@pytest.fixture(scope="module")
def example():
    """What the book's example prints on one process and on two: first and later loss, without a norm and with one."""
    script, printed = HERE.parents[1] / "book" / "examples" / "several_processes.py", {}
    for processes, launcher in ((1, []), (2, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])):
        command = [sys.executable, *launcher, script]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        lines = re.findall(r"^processes (\d), (.*): loss ([\d.]+), later ([\d.]+)$", done.stdout, re.MULTILINE)
        printed[processes] = {norm: (float(first), float(later)) for _, norm, first, later in lines}
        assert [int(number) for number, *_ in lines] == [processes] * 2  # each once
        assert re.search(r"the loss of 2048 pairs: \d+ ms", done.stdout)
    return printed


def test_the_books_example_on_two_processes_trains_as_on_one(example):
    first, later = zip(*(example[processes]["no norm"] for processes in (1, 2)), strict=True)
    assert first[1] == pytest.approx(first[0], rel=1e-6)
    assert later[1] == pytest.approx(later[0], rel=1e-4)
    assert later[0] < first[0] - 0.1  # it learned something


def test_batchnorm_is_what_two_processes_do_differently(example):
    one, two = (example[processes]["BatchNorm"][0] for processes in (1, 2))
    assert abs(two - one) > 1e-3


def test_a_single_process_gathers_nothing_and_keeps_the_gradient():
    x = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather_embeddings(x) is x


def test_an_embedding_without_batch_axis_is_refused():
    with pytest.raises(ValueError, match=r"batch axis .* received a single number"):
        distributed.gather_embeddings(torch.tensor(1.0))
