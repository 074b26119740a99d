"""The doctor says what is there, what is not, and what brings it."""

import json
import platform

import torch

from vlmcourse.cli import main
from vlmcourse.course import doctor


def test_the_report_names_this_machine(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    capability = torch.backends.cpu.get_cpu_capability()
    for fact in (platform.python_version(), torch.__version__, capability, doctor.processor()):
        assert fact in said


def test_more_threads_than_cores_are_a_finding_with_its_remedy(monkeypatch):
    """As in a container with a quota of two cores: PyTorch starts a thread for each core of the machine."""
    monkeypatch.setattr(doctor.joblib, "cpu_count", lambda: 2)
    for threads, said in ((64, "2 cores, 64 threads; fewer are faster: OMP_NUM_THREADS=2"), (2, "2 cores, 2 threads")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert dict(doctor.findings())["CPU"].endswith(f", {said}")


def test_what_is_missing_comes_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "nbclient" else "1.0")
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None if tool == "make" else f"/usr/bin/{tool}")
    assert doctor.missing() == [
        "running chapters needs nbclient: pip install ipykernel nbclient",
        "building the book needs make",
    ]


def test_a_device_that_is_not_there_is_a_finding_and_no_crash(monkeypatch):
    monkeypatch.setenv("VLMCOURSE_DEVICE", "cuda:99")
    assert dict(doctor.findings())["chapters run on"].startswith("nothing: VLMCOURSE_DEVICE=cuda:99")


def test_recorded_times_are_those_of_one_thread(monkeypatch, tmp_path):
    runs = [{"seconds": 20.4, "threads": 1}, {"seconds": 31.0, "threads": 1}, {"seconds": 5.0, "threads": 2}]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "04_linear_probe_quick.json").write_text(json.dumps({"runs": runs}))
    monkeypatch.setattr(doctor.vlmcourse, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.delenv("VLMCOURSE_PROFILE", raising=False)
    assert doctor.recorded_seconds() == {"04_linear_probe": "20 to 31 s"}


def test_a_card_whose_driver_is_too_old_is_a_finding_and_no_device(monkeypatch):
    def too_old(index):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12000).\nPlease update it")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", too_old)
    monkeypatch.setenv("VLMCOURSE_DEVICE", "cuda")
    found = dict(doctor.findings())
    reason = "cannot be used: The NVIDIA driver on your system is too old (found version 12000)."
    assert found["cuda:0"] == reason
    assert found["chapters run on"].startswith("nothing: VLMCOURSE_DEVICE=cuda is not available")
