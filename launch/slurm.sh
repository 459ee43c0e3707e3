#!/usr/bin/env bash
# Train on a SLURM cluster with GPUs, one process a GPU: submits launch/slurm.sbatch, which requeues itself.
#
#   launch/slurm.sh --nodes=2 --gpus_per_node=8 --time=24:00:00 --partition=gpu \
#       -- --config=configs/gsm8k_colar.py --config.workdir=/shared/runs/gsm8k
#
# --nodes --gpus_per_node --time --partition --account --job_name    as sbatch has them (GPUs: 8, or a100:8)
# --python     what runs on the nodes, such as 'apptainer exec --nv colar.sif python' (default: .venv/bin/python)
# --logs       folder of the log (default: runs)
# --help       print this
# --dry_run    print the command, submit nothing
# After --, the flags of colar_jax.train.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
help_if_asked "${BASH_SOURCE[0]}" "$@"

NODES=1 GPUS=1 TIME="" PARTITION="" ACCOUNT="" JOB_NAME=colar PYTHON=.venv/bin/python LOGS=runs
while [ $# -gt 0 ]; do
    case $1 in
        --nodes=*) NODES=${1#*=} ;;
        --gpus_per_node=*) GPUS=${1#*=} ;;
        --time=*) TIME=${1#*=} ;;
        --partition=*) PARTITION=${1#*=} ;;
        --account=*) ACCOUNT=${1#*=} ;;
        --job_name=*) JOB_NAME=${1#*=} ;;
        --python=*) PYTHON=${1#*=} ;;
        --logs=*) LOGS=${1#*=} ;;
        --dry_run) DRY_RUN=1 ;;
        --) shift; break ;;
        *) die "$1 is no flag of launch/slurm.sh, whose flags are --name=value: see --help (those of the training come after --)" ;;
    esac
    shift
done
[ $# -gt 0 ] || die "nothing to train: give the flags of colar_jax.train after --, such as -- --config=..."
[[ $GPUS =~ ^([^:,]+:)?([1-9][0-9]*)$ ]] || die "--gpus_per_node=$GPUS does not say how many: give 8, or a100:8"
tasks=${BASH_REMATCH[2]}
need_tool sbatch "run this where jobs are submitted (a login node)"

options=(--job-name="$JOB_NAME" --nodes="$NODES" --gpus-per-node="$GPUS" --ntasks-per-node="$tasks")
[ -z "$TIME" ] || options+=(--time="$TIME")
[ -z "$PARTITION" ] || options+=(--partition="$PARTITION")
[ -z "$ACCOUNT" ] || options+=(--account="$ACCOUNT")
options+=(--output="$LOGS/slurm-%j.log" --chdir="$(dirname "$here")")
case $LOGS in # as sbatch reads it: from --chdir
    /*) run mkdir -p "$LOGS" ;;
    *) run mkdir -p "$(dirname "$here")/$LOGS" ;;
esac
# By the environment and not by --export=ALL,NAME=VALUE, which would cut the value at its commas.
export COLAR_PYTHON=$PYTHON
[ -z "$DRY_RUN" ] || printf 'export COLAR_PYTHON=%q\n' "$PYTHON"
run sbatch "${options[@]}" "$here/slurm.sbatch" "$@"
