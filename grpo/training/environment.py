"""Checks that need neither policy nor data: packages, batch, tracker, devices, server.

A session calls `check_environment` once, and a sweep checks each of its jobs with `check_settings`. Only device=cuda
imports PyTorch here.
"""

from grpo.config.batch import BatchSplit, derive_batch
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.policy.requirements import check_device
from grpo.sampling.engines import check_engine_package, check_engine_processes, check_engine_server
from grpo.training.tracking import check_tracking


def check_settings(config: Config, world_size: int = 1) -> BatchSplit:
    """The batch of a run of `world_size` processes; checks what does not depend on the machine that trains.

    Raises:
        UserError: the batch cannot be divided, the sampler's package is missing, or the tracker refuses its settings.
    """
    batch = derive_batch(config.num_generations, config.prompts_per_step, config.micro_batch_size, world_size)
    check_engine_package(config)
    check_tracking(config.tracking)
    return batch


def check_environment(config: Config) -> BatchSplit:
    """The batch of this run; checks its settings, processes and devices, and waits for the server of its sampler.

    Raises:
        UserError: as `check_settings`; a device or a package is missing; the processes do not fit the devices or the
            sampler; the server does not answer.
    """
    batch = check_settings(config, distributed.world_size())
    check_engine_processes(config, distributed.world_size())
    check_device(config, batch)
    check_engine_server(config)
    return batch
