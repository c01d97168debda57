"""A key-value cache for sampling: prompts stored once, room to grow, finished rows dropped.

``DynamicCache`` copies every key and value at every token and when a row is dropped. Here keys
are written into spare room, and the hole of a finished row is filled by the last living row.
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlflow_rlrisk.errors import SamplerError

if TYPE_CHECKING:
    import torch

FIRST_ROOM = 64
"""Tokens of spare room at first; from there the room grows by half."""


@cache
def _growing_layer() -> type[Any]:
    """The layer class; made on first use, because its base lives in transformers."""
    cache_utils: Any = import_module("transformers.cache_utils")

    class GrowingLayer(cache_utils.DynamicLayer):  # type: ignore[misc] # its base is Any
        """Keys and values as views ``[rows, heads, length, width]`` of larger buffers."""

        keys: Any
        values: Any
        key_buffer: Any
        value_buffer: Any

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
            """Write the new keys and values behind the old ones; returns all of them."""
            length = self.get_seq_length()
            end = length + key_states.shape[-2]
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.key_buffer = _with_room(key_states, end)
                self.value_buffer = _with_room(value_states, end)
            else:
                if end > self.key_buffer.shape[-2]:
                    self.key_buffer = _with_room(self.keys, end + end // 2)
                    self.value_buffer = _with_room(self.values, end + end // 2)
                rows = len(key_states)
                self.key_buffer[:rows, :, length:end] = key_states
                self.value_buffer[:rows, :, length:end] = value_states
            self.keys = self.key_buffer[: len(key_states), :, :end]
            self.values = self.value_buffer[: len(value_states), :, :end]
            return self.keys, self.values

        def spread(self, rows: "torch.Tensor") -> None:
            """Repeat the stored rows as ``rows`` says, with room for what follows."""
            if not self.is_initialized:
                raise SamplerError("the model does not use the key-value cache")
            room = self.get_seq_length() + FIRST_ROOM
            self.key_buffer = _with_room(self.keys, room, rows)
            self.value_buffer = _with_room(self.values, room, rows)
            length = self.get_seq_length()
            self.keys = self.key_buffer[:, :, :length]
            self.values = self.value_buffer[:, :, :length]

        def keep(self, holes: "torch.Tensor", movers: "torch.Tensor", num_rows: int) -> None:
            """Fill ``holes`` with the rows ``movers`` and forget all from ``num_rows`` on."""
            self.keys[holes] = self.keys[movers]
            self.values[holes] = self.values[movers]
            self.keys, self.values = self.keys[:num_rows], self.values[:num_rows]

    return GrowingLayer


def _with_room(
    states: "torch.Tensor", room: int, rows: "torch.Tensor | None" = None
) -> "torch.Tensor":
    num_rows, heads, length, width = states.shape
    if rows is not None:
        num_rows = len(rows)
    buffer = states.new_empty((num_rows, heads, room, width))
    buffer[:, :, :length] = states if rows is None else states[rows]
    return buffer


class SamplingCache:
    """The cache of one wave of rollouts; ``states`` is what the model is given."""

    def __init__(self, config: Any) -> None:
        """Make the layers that a model of this configuration needs.

        Raises:
            SamplerError: A layer keeps a state that is not keys and values (Mamba and kin).
        """
        cache_utils: Any = import_module("transformers.cache_utils")
        self.states = cache_utils.DynamicCache(config=config)
        layers = self.states.layers
        for index, layer in enumerate(layers):
            if type(layer) is cache_utils.DynamicLayer:
                layers[index] = _growing_layer()()
            elif type(layer) is not cache_utils.DynamicSlidingWindowLayer:
                raise SamplerError(
                    f"layer {index} keeps a {type(layer).__name__}; keys and values are supported"
                )

    def spread(self, rows: "torch.Tensor") -> None:
        """Give every rollout the state of its prompt; ``rows`` holds prompt slots, ``[B]``.

        Raises:
            SamplerError: The model left a layer empty.
        """
        for layer in self.states.layers:
            if isinstance(layer, _growing_layer()):
                layer.spread(rows)
            else:
                layer.batch_select_indices(rows)

    def keep(self, holes: "torch.Tensor", movers: "torch.Tensor", order: "torch.Tensor") -> None:
        """Drop the finished rows; ``order`` is the row that each remaining place now holds."""
        for layer in self.states.layers:
            if isinstance(layer, _growing_layer()):
                layer.keep(holes, movers, len(order))
            else:
                layer.batch_select_indices(order)
