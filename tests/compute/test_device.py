import pytest
import torch

from cryoloom.compute import choose_device
from cryoloom.contract import InputError

# what is shown is the refusal where no GPU is at hand; it cannot be shown where one is
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_the_cpu_is_always_there():
    choice = choose_device("cpu")
    assert choice.device == "cpu" and choice.memory_budget > 0 and not choice.note


@no_gpu
@pytest.mark.capability("PLT-17")
def test_a_required_gpu_that_is_absent_stops_the_work_and_auto_says_what_the_cpu_costs(measure):
    refused = 0
    for wanted in ("auto", "cpu", "cuda"):
        with pytest.raises(InputError, match="GPU"):
            choose_device(wanted, require_gpu=True)
        refused += 1
    with pytest.raises(InputError, match="GPU"):
        choose_device("cuda:3")
    choice = choose_device("auto")
    assert choice.device == "cpu"
    assert "times longer" in choice.note
    measure(refused, "of 3 requests without a GPU refused", "3")


def test_an_unknown_device_is_refused():
    with pytest.raises(InputError, match="expected auto, cpu"):
        choose_device("tpu")


def test_several_gpus_are_named_and_a_step_that_needs_one_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((3 - index) << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert choose_device("auto").devices == ("cuda:0",)
    assert choose_device("cuda:all").devices == ("cuda:0", "cuda:1", "cuda:2")
    some = choose_device("cuda:2,0", memory_fraction=0.5)
    assert some.devices == ("cuda:0", "cuda:2") and some.memory_budget == 1 << 29
    assert some.description == "GPU 0: card 0, GPU 2: card 2"
    one = some.only_first()
    assert one.devices == ("cuda:0",) and one.description == "GPU 0: card 0" and "first" in one.note
    with pytest.raises(InputError, match="3 GPU"):
        choose_device("cuda:1,3")
