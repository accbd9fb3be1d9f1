"""Artifacts: tensors as files."""

import torch
from torch import nn

from trainables.store.artifacts import decode_masks, decode_tensors, encode_masks, encode_tensors


def test_tensors_that_share_memory_are_each_written() -> None:
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    model = nn.Sequential(one, other)
    weight = other.weight = one.weight
    state = model.state_dict() | {"rows": weight[1:], "turned": weight.T, "none": weight[:0]}
    read = decode_tensors(encode_tensors(state))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_what_is_read_is_in_the_order_of_names_every_time() -> None:
    names = [str(number) for number in range(20, 0, -1)]
    written = encode_tensors({name: torch.ones(int(name)) for name in names})
    masked = encode_masks({name: torch.ones(int(name)) > 0 for name in names})
    for _ in range(3):
        assert [*decode_tensors(written)] == [*decode_masks(masked)] == sorted(names)


def test_the_bytes_do_not_depend_on_what_is_shared_or_how_it_lies_in_memory() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    lying = weight.T.contiguous().T
    assert encode_tensors({"a": weight, "b": weight}) == encode_tensors({"a": lying, "b": weight})
