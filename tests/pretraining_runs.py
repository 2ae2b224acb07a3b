"""Pretraining runs in processes of their own, which may be killed.

    python -m tests.pretraining_runs '[{"folder": "run", "kill_step": 7}]'

Each entry is a run of `small_sets.run_pretraining`: `folder`, and of these as many as wanted: `kill_step` (the last
process kills itself in that step), `kill_save` (the first one does while it writes its so manieth checkpoint),
`stop_step` (an exception, after which the next run follows), `fork` (in a process of its own, so that the next run
follows its death) and arguments of pretraining.
"""

import json
import os
import signal
import sys

import accelerate.checkpointing
import torch
from accelerate import DistributedType, PartialState

from modeling_mmwfm import pretraining_mmwfm as pretraining
from tests.small_sets import run_pretraining


def kill_in_step(last_step):
    note = pretraining.FiniteCheck.note

    def note_or_die(self, step, *rest):
        if step == last_step and self.accelerator.process_index == self.accelerator.num_processes - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        note(self, step, *rest)

    pretraining.FiniteCheck.note = note_or_die


def kill_in_save(number):
    """After the model, before the optimiser is written."""
    save, calls = accelerate.checkpointing.save, []

    def save_or_die(*arguments, **settings):
        calls.append(arguments)
        if (
            str(arguments[1]).endswith("optimizer.bin")
            and sum("optimizer" in str(call[1]) for call in calls) == number
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        save(*arguments, **settings)

    accelerate.checkpointing.save = save_or_die


def stop_after(last_step):
    class Stop(Exception):
        pass

    save = pretraining.save_checkpoint

    def save_and_stop(accelerator, output_dir, step, keep):
        save(accelerator, output_dir, step, keep)
        if step == last_step:
            pretraining.save_checkpoint = save
            raise Stop

    pretraining.save_checkpoint = save_and_stop
    return Stop


def pretend_sharding():
    """Accelerate has FSDP for accelerators alone; the processes on this CPU are called one."""
    state = PartialState(cpu=True)
    assert state.distributed_type == DistributedType.MULTI_CPU
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU


def main(runs):
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        pretend_sharding()
    for run in runs:
        if run.pop("fork", False) and (child := os.fork()):
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            continue
        stop = ()
        if (step := run.pop("kill_step", None)) is not None:
            kill_in_step(step)
        if (number := run.pop("kill_save", None)) is not None:
            kill_in_save(number)
        if (step := run.pop("stop_step", None)) is not None:
            stop = stop_after(step)
        try:
            run_pretraining(run.pop("folder"), **run)
        except stop:
            pass
    if torch.distributed.is_initialized():  # a process that ends with its threads running may abort
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
