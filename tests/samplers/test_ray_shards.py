"""Cutting the work and reading the options: no cluster is needed."""

import math
import socket
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_rlrisk.errors import ConfigError, SamplerError
from mlflow_rlrisk.records import Prompt
from mlflow_rlrisk.samplers.ray_cluster import Demand, _connect, check_free, check_room
from mlflow_rlrisk.samplers.ray_options import RayOptions
from mlflow_rlrisk.samplers.ray_shards import cut_shards
from tests.tiny_assessments import quick


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    start=st.integers(0, 8),
    count=st.integers(1, 20),
    workers=st.integers(1, 5),
    width=st.integers(0, 9),
    depth=st.integers(0, 9),
)
def test_every_sample_of_every_prompt_is_in_one_shard(
    lengths: list[int], start: int, count: int, workers: int, width: int, depth: int
) -> None:
    prompts = [Prompt(id=str(place), content="x" * size) for place, size in enumerate(lengths)]
    samples = range(start, start + count)

    shards = cut_shards(
        prompts, samples, num_workers=workers, prompts_per_shard=width, samples_per_shard=depth
    )

    drawn = Counter(
        (prompt.id, index)
        for shard in shards
        for prompt in shard.prompts
        for index in shard.samples
    )
    assert drawn == Counter((prompt.id, index) for prompt in prompts for index in samples)
    assert all(len(shard.prompts) <= (width or len(prompts)) for shard in shards)
    assert all(len(shard.samples) <= (depth or count) for shard in shards)


def test_the_longest_prompts_are_begun_first() -> None:
    prompts = [Prompt(id=str(size), content="x" * size) for size in (3, 9, 1, 5)]

    shards = cut_shards(prompts, range(2), num_workers=2, prompts_per_shard=2)

    assert [[prompt.id for prompt in shard.prompts] for shard in shards] == [["9", "5"], ["3", "1"]]


def test_options_of_the_inner_sampler_reach_it_without_their_prefix() -> None:
    config = quick(
        backend="ray",
        backend_options={"inner": "vllm", "inner.tensor_parallel_size": 2, "num_workers": 4},
    )

    options = RayOptions.of(config)
    inner = options.config_for_worker(config)

    assert (inner.backend, inner.backend_options) == ("vllm", {"tensor_parallel_size": 2})
    assert options.demand == Demand(num_workers=4, num_cpus=1, num_gpus=0)
    assert inner.sampling == config.sampling


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, "workers=2: unknown; known: inner, num_workers"),
        ({"num_workers": 0}, "num_workers=0: .*greater than or equal to 1"),
        ({"num_workers": 10**12}, "num_workers=1000000000000: .*less than"),
        ({"num_workers": True}, "num_workers=True: a number is needed"),
        ({"num_workers": 1.5}, "num_workers=1.5: .*integer"),
        ({"num_cpus_per_worker": math.nan}, "num_cpus_per_worker=nan: .* finite number"),
        ({"num_gpus_per_worker": -1}, "num_gpus_per_worker=-1: .*greater than or equal to 0"),
        ({"address": 7}, "address=7: .*string"),
        ({"verify": "perhaps"}, "verify='perhaps': .*boolean"),
        ({"inner": ""}, "inner='': "),
        ({"inner": "ray"}, "inner='ray': a sampler with a model"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^backend_options\.{message}"):
        RayOptions.of(quick(backend="ray", backend_options=options))


ONE = [{"CPU": 4.0}]
TWO = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 3.0}]


@pytest.mark.parametrize(
    ("demand", "nodes", "fits"),
    [
        ((3, 1.0, 0.0), ONE, True),
        ((4, 1.0, 0.0), ONE, False),  # none would be left to the tasks: Ray hangs for ever
        ((3, 0.0, 2.0), TWO, True),
        ((4, 0.0, 2.0), TWO, False),  # 7 GPUs, but no node has two twice and two left over
        ((1, 9.0, 0.0), TWO, False),  # 16 CPUs, but none has nine
        ((5, 0.5, 0.0), ONE, True),
    ],
)
def test_a_demand_is_refused_where_ray_would_wait_for_ever(
    demand: tuple[int, float, float], nodes: list[dict[str, float]], fits: bool
) -> None:
    wanted = Demand(num_workers=demand[0], num_cpus=demand[1], num_gpus=demand[2])

    if fits:
        check_room(wanted, nodes)
    else:
        with pytest.raises(ConfigError, match="num_"):
            check_room(wanted, nodes)


def test_workers_that_would_crowd_on_one_gpu_are_refused() -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}]
    blind = Demand(num_workers=4, num_cpus=1, num_gpus=0, takes_gpus=True)

    with pytest.raises(ConfigError, match="share its first GPU"):
        check_room(blind, nodes)
    check_room(replace(blind, num_gpus=1), nodes)
    check_room(replace(blind, takes_gpus=False), nodes)  # an endpoint, or the device is the CPU
    check_room(replace(blind, num_workers=1), nodes)
    check_room(blind, [{"CPU": 8.0}])


def test_resources_that_others_hold_do_not_count() -> None:
    wanted = Demand(num_workers=2, num_cpus=1, num_gpus=0)

    check_room(wanted, ONE)
    with pytest.raises(ConfigError, match="at most 0 CPUs can be claimed of 1 free one"):
        check_free(wanted, {"CPU": 1.0})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_where_nobody_listens_is_told_at_once(scheme: str) -> None:
    # Ray itself goes on trying for minutes.
    pytest.importorskip("ray.data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(SamplerError, match=f"at {address} cannot be reached: .*refused"):
            _connect(address, Demand(num_workers=1, num_cpus=1, num_gpus=0))
