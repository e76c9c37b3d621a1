"""What a device has and uses, with limits enforced inside a measurement and nowhere else."""

from __future__ import annotations

import contextlib

import psutil
import pytest
import torch

from bstuner.device.host_memory import available_host_memory
from bstuner.device.memory import CpuMemory, MpsMemory, memory_of
from bstuner.errors import InvalidSetting

MIB = 2**20
CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def test_the_cpus_capacity_is_what_the_host_has_available():
    memory = memory_of(CPU)
    assert 0 < memory.capacity <= psutil.virtual_memory().total
    assert (memory.label, memory.slows_steps) == ("CPU (host memory)", True)
    assert (memory.retries(), memory.allocated([torch.ones(10), torch.ones(5)])) == (0, 60)


def test_resident_tensors_may_be_used_though_they_are_no_longer_free(monkeypatch):
    monkeypatch.setattr("bstuner.device.memory.available_host_memory", lambda: 1000)
    assert CpuMemory(resident=[torch.zeros(100)]).capacity == 1400


@pytest.mark.parametrize(("limit", "capacity"), [(MIB, MIB), (2**60, None)])
def test_a_limit_only_ever_lowers_the_capacity(limit, capacity, monkeypatch):
    monkeypatch.setattr("bstuner.device.memory.available_host_memory", lambda: 2**30)
    assert memory_of(CPU, limit).capacity == (capacity or 2**30)


def test_a_measurement_on_the_cpu_reads_the_peak_of_resident_and_new_tensors():
    with memory_of(CPU).measure(resident=[torch.zeros(100)]) as reading:
        torch.zeros(200)
        torch.zeros(300)
    assert reading.peak_bytes == 400 + 1200


def test_the_limit_holds_inside_the_measurement_only_and_the_peak_survives_the_error():
    memory = memory_of(CPU, MIB)
    with contextlib.suppress(torch.OutOfMemoryError), memory.measure(resident=[]) as reading:
        torch.zeros(MIB)
        pytest.fail("not refused")
    assert reading.peak_bytes == 4 * MIB
    assert len(torch.zeros(MIB)) == MIB


def test_each_measurement_starts_anew():
    memory = memory_of(CPU)
    with memory.measure(resident=[]):
        torch.zeros(1000)
    with memory.measure(resident=[]) as reading:
        torch.zeros(10)
    assert reading.peak_bytes == 40


def test_an_unknown_device_is_refused_with_the_ones_supported():
    with pytest.raises(InvalidSetting, match=r"must be cuda \(also ROCm\), mps or cpu.*but it is 'meta'"):
        memory_of(torch.device("meta"))


def write_group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_a_containers_limit_bounds_the_host_memory_with_page_cache_taken_as_free(tmp_path):
    membership = tmp_path / "membership"
    membership.write_text("0::/pod/app\n")
    stat = "anon 600\ninactive_file 300\n"
    write_group(tmp_path / "pod/app", memory__max="1000\n", memory__current="900\n", memory__stat=stat)
    assert available_host_memory(tmp_path, membership) == 1000 - 900 + 300


def test_the_limit_of_a_group_above_binds_too(tmp_path):
    membership = tmp_path / "membership"
    membership.write_text("0::/pod/app\n")
    write_group(tmp_path / "pod/app", memory__max="max\n", memory__current="900\n", memory__stat="")
    write_group(tmp_path / "pod", memory__max="2000\n", memory__current="1500\n", memory__stat="")
    assert available_host_memory(tmp_path, membership) == 500


def test_control_groups_of_version_1_are_read(tmp_path):
    membership = tmp_path / "membership"
    membership.write_text("9:name=systemd:/\n5:cpu,cpuacct:/app\n4:memory:/app\n0::/\n")
    write_group(
        tmp_path / "memory/app",
        memory__limit_in_bytes="1000\n",
        memory__usage_in_bytes="1200\n",
        memory__stat="total_inactive_file 250\n",
    )
    assert available_host_memory(tmp_path, membership) == 50


@pytest.mark.parametrize("text", [None, "0::/\n"])
def test_without_a_container_the_whole_host_counts(tmp_path, text, monkeypatch):
    if text is not None:
        (tmp_path / "membership").write_text(text)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Host", (), {"available": 12345}))
    assert available_host_memory(tmp_path, tmp_path / "membership") == 12345


class FakeMps:
    """The calls of torch.mps, without an Apple GPU."""

    def __init__(self):
        self.held, self.fractions = 700, []

    def recommended_max_memory(self):
        return 1000

    def driver_allocated_memory(self):
        return self.held

    def current_allocated_memory(self):
        return 100

    def empty_cache(self):
        self.held = self.current_allocated_memory()

    def synchronize(self):
        pass

    def set_per_process_memory_fraction(self, fraction):
        self.fractions.append(fraction)


@pytest.mark.parametrize(("ratio", "restored"), [(None, 1.7), ("0.8", 0.8)])
def test_mps_reads_what_its_allocator_holds_and_puts_the_limit_back(monkeypatch, ratio, restored):
    fake = FakeMps()
    monkeypatch.setattr(torch, "mps", fake)
    if ratio is not None:
        monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", ratio)
    memory = memory_of(torch.device("mps"), limit=400)
    with contextlib.suppress(RuntimeError), memory.measure(resident=[]) as reading:
        assert (fake.held, fake.fractions) == (100, [0.4])
        fake.held = 380
        raise RuntimeError("MPS backend out of memory")
    assert (memory.capacity, reading.peak_bytes, fake.fractions) == (400, 380, [0.4, restored])
    memory.release()
    assert (memory.allocated(), fake.held) == (100, 100)
    assert MpsMemory().capacity == 1000


def gpu(test):
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(no_gpu(test))


@gpu
def test_a_gpus_capacity_is_what_is_free_and_what_this_process_holds():
    memory_of(CUDA).release()
    before = memory_of(CUDA).capacity
    held = torch.empty(64 * MIB, dtype=torch.uint8, device=CUDA)
    assert memory_of(CUDA).capacity == pytest.approx(before, rel=0.02)
    assert memory_of(CUDA).label == torch.cuda.get_device_name()
    del held


@gpu
def test_a_measurement_on_a_gpu_reads_the_peak_of_that_measurement():
    memory = memory_of(CUDA)
    memory.release()
    torch.empty(64 * MIB, dtype=torch.uint8, device=CUDA)
    before = memory.allocated()
    with memory.measure(resident=[]) as reading:
        torch.empty(8 * MIB, dtype=torch.uint8, device=CUDA)
    assert reading.peak_bytes == before + 8 * MIB
    assert memory.allocated() == before


@gpu
@pytest.mark.parametrize("own_fraction", [1.0, 0.5])
def test_a_gpus_limit_holds_inside_the_measurement_and_the_users_own_is_put_back(own_fraction):
    torch.cuda.set_per_process_memory_fraction(own_fraction)
    try:
        memory = memory_of(CUDA, limit=256 * MIB)
        with contextlib.suppress(torch.OutOfMemoryError), memory.measure(resident=[]) as reading:
            small = torch.empty(64 * MIB, dtype=torch.uint8, device=CUDA)
            torch.empty(512 * MIB, dtype=torch.uint8, device=CUDA)
            pytest.fail("not refused")
        del small
        assert memory.capacity == 256 * MIB
        assert 64 * MIB <= reading.peak_bytes <= 256 * MIB
        assert torch.empty(512 * MIB, dtype=torch.uint8, device=CUDA).is_cuda
        assert torch.cuda.get_per_process_memory_fraction() == pytest.approx(own_fraction)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        memory.release()


@gpu
def test_a_fraction_the_user_has_set_bounds_the_gpus_capacity():
    torch.cuda.set_per_process_memory_fraction(0.25)
    try:
        total = torch.cuda.mem_get_info()[1]
        assert memory_of(CUDA).capacity <= 0.25 * total
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@gpu
def test_what_libraries_took_to_work_in_is_given_back():
    memory = memory_of(CUDA)
    memory.release()
    before = memory.allocated()
    weight = torch.ones(64, 64, device=CUDA, requires_grad=True)
    (weight @ weight).sum().backward()  # in a thread of its own, with a workspace of its own
    del weight
    memory.release()
    assert memory.allocated() == before


@gpu
def test_a_step_that_passes_only_by_emptying_the_cache_counts_as_a_retry():
    memory = memory_of(CUDA, limit=256 * MIB)
    memory.release()
    before = memory.retries()
    with memory.measure(resident=[]):
        torch.empty(150 * MIB, dtype=torch.uint8, device=CUDA)  # freed, but kept in reserve
        torch.empty(200 * MIB, dtype=torch.uint8, device=CUDA)
    memory.synchronize()
    assert memory.retries() > before
    memory.release()
