#!/bin/bash
# A run on one GPU of a Slurm cluster, which resumes itself after its time limit:
#   sbatch examples/slurm.sh experiment=gsm8k
# The arguments are those of `python -m grpo.train`. Sweeps need no script: docs/sweeps.md, "Launchers".
#SBATCH --job-name=grpo
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=4:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the limit the run gets SIGUSR2: it finishes its step, saves a checkpoint and exits with 128 + 12.
#SBATCH --signal=USR2@120
run=outputs/slurm-$SLURM_JOB_ID
if [ -d "$run" ]; then
    settings=("resume=$run")  # the job was queued again
else
    settings=("hydra.run.dir=$run" "$@")
fi
srun python -m grpo.train "${settings[@]}"
code=$?
if [ "$code" -eq 140 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
