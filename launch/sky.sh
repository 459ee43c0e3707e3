#!/usr/bin/env bash
# Train on any cloud with SkyPilot (launch/sky.yaml).
#
#   launch/sky.sh --name=colar --accelerators=H100:8 --bucket=my-bucket -- --config=configs/gsm8k_colar.py
#
# --name           of the cluster, or of the managed job
# --accelerators   such as H100:8, tpu-v5litepod-8 or tpu-v6e-8
# --infra          cloud, cloud/region or cloud/region/zone (default: the cheapest that has them)
# --nodes          machines (default: 1; of a TPU always: a larger slice has more of them, such as tpu-v6e-16)
# --bucket         a bucket to mount at /bucket; runs go to /bucket/<name>, unless --config.workdir says otherwise
# --extras         of the package besides cuda or tpu, with commas between them: math for configs/math_*.py, gguf
# --spot           as a managed job on spot machines: SkyPilot starts it again where it is preempted
# --help           print this
# --dry_run        print the command, launch nothing
# After --, the flags of colar_jax.train.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
help_if_asked "${BASH_SOURCE[0]}" "$@"

NAME="" ACCELERATORS="" INFRA="" NODES=1 BUCKET="" EXTRAS="" SPOT=""
while [ $# -gt 0 ]; do
    case $1 in
        --name=*) NAME=${1#*=} ;;
        --accelerators=*) ACCELERATORS=${1#*=} ;;
        --infra=*) INFRA=${1#*=} ;;
        --nodes=*) NODES=${1#*=} ;;
        --bucket=*) BUCKET=${1#*=} ;;
        --extras=*) EXTRAS=${1#*=} ;;
        --spot) SPOT=1 ;;
        --dry_run) DRY_RUN=1 ;;
        --) shift; break ;;
        *) die "$1 is no flag of launch/sky.sh, whose flags are --name=value: see --help (those of the training come after --)" ;;
    esac
    shift
done
need_flag name "$NAME" colar
need_flag accelerators "$ACCELERATORS" H100:8
need_flag bucket "$BUCKET" my-bucket
[ $# -gt 0 ] || die "nothing to train: give the flags of colar_jax.train after --, such as -- --config=..."
extra=cuda
case $ACCELERATORS in [Tt][Pp][Uu]-*) extra=tpu ;; esac
# Two nodes would be two slices, whose machines do not find each other: each would train alone, in one folder.
[ "$extra" = cuda ] || [ "$NODES" = 1 ] ||
    die "--nodes=$NODES with --accelerators=$ACCELERATORS would be slices that train apart: name a larger one, as in --accelerators=tpu-v6e-16"
need_tool sky "pip install 'skypilot[gcp]' (or another cloud), then sky check"

[ -z "$EXTRAS" ] || extra+=,$EXTRAS
# One string that the remote shell reads back as these very words.
flags=$(quoted --config.workdir="/bucket/$NAME" "$@")
options=(--gpus="$ACCELERATORS" --num-nodes="$NODES" --env="COLAR_EXTRA=$extra" --env="COLAR_BUCKET=$BUCKET"
    --env="COLAR_FLAGS=$flags" --workdir="$(dirname "$here")" --detach-run --yes)
[ -z "$INFRA" ] || options+=(--infra="$INFRA")
if [ -n "$SPOT" ]; then
    run sky jobs launch --name="$NAME" --use-spot "${options[@]}" "$here/sky.yaml"
else
    run sky launch --cluster="$NAME" "${options[@]}" "$here/sky.yaml"
fi
