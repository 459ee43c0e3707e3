#!/usr/bin/env bash
# Train on a TPU VM slice: create or reuse it, install on all its workers, train in the background, survive preemption.
#
#   launch/tpu_vm.sh run --name=colar --zone=us-west4-a --type=v5litepod-16 --spot --queued --bucket=my-bucket \
#       -- --config=configs/gsm8k_colar.py --config.workdir=/home/me/bucket/gsm8k
#
# run       up, install, start, then watch until the training has ended; a slice that is taken away is made again, and
#           what fails on the way, such as ssh to a machine that was just made, is tried again, 20 times in a row
# up        create the slice, or reuse the one of this name
# install   copy this checkout's HEAD to all workers and install it there; says what is here and not in HEAD
# start     start training in the background on all workers (again: nothing, if it still runs)
# status    the slice's state, and the training's exit status once it has one
# logs      stream the first worker's log
# down      delete the slice
#
# --name --zone --type      of the slice, as gcloud names them; --project
# --spot                    cheap, and may be preempted at any time
# --queued                  as a queued resource: waits for its turn
# --version                 the runtime (default: the one for --type)
# --bucket                  a Cloud Storage bucket to mount at ~/bucket on all workers: what outlives the slice
# --extras                  of the package besides tpu, with commas between them: math for configs/math_*.py, gguf
# --help                    print this
# --dry_run                 print the commands, do nothing
# After --, the flags of colar_jax.train.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
# shellcheck source-path=SCRIPTDIR source=tpu_vm_watch.sh
. "$here/tpu_vm_watch.sh"
help_if_asked "${BASH_SOURCE[0]}" "$@"

NAME="" ZONE="" TYPE="" VERSION="" PROJECT="" BUCKET="" EXTRAS="" SPOT="" QUEUED=""
POLL_SECONDS=${COLAR_POLL_SECONDS:-60}
TRAIN_FLAGS=()

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --name=*) NAME=${1#*=} ;;
            --zone=*) ZONE=${1#*=} ;;
            --type=*) TYPE=${1#*=} ;;
            --version=*) VERSION=${1#*=} ;;
            --project=*) PROJECT=${1#*=} ;;
            --bucket=*) BUCKET=${1#*=} ;;
            --extras=*) EXTRAS=${1#*=} ;;
            --spot) SPOT=1 ;;
            --queued) QUEUED=1 ;;
            --dry_run) DRY_RUN=1 ;;
            --) shift; TRAIN_FLAGS=("$@"); return ;;
            *) die "$1 is no flag of launch/tpu_vm.sh, whose flags are --name=value: see --help (those of the training come after --)" ;;
        esac
        shift
    done
}

runtime_version() {
    case $TYPE in
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v6e-*) echo v2-alpha-tpuv6e ;;
        *) die "--type=$TYPE has no runtime known here: give --version=... (gcloud compute tpus versions list)" ;;
    esac
}

# tpus GROUP VERB ARGUMENTS: the gcloud command, with zone and project.
tpus() {
    local where=(--zone="$ZONE")
    [ -z "$PROJECT" ] || where+=(--project="$PROJECT")
    run gcloud compute tpus "$@" "${where[@]}"
}

on_workers() { # WORKERS COMMAND
    tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2"
}

# READY, CREATING, PREEMPTED, ..., or NONE. A queued resource that is not ACTIVE says so itself.
state() {
    local found
    if [ -n "$QUEUED" ]; then
        found=$(tpus queued-resources describe "$NAME" --format='value(state.state)' 2>/dev/null) || found=NONE
        [ "$found" = ACTIVE ] || { echo "${found:-NONE}"; return; }
    fi
    found=$(tpus tpu-vm describe "$NAME" --format='value(state)' 2>/dev/null) || found=NONE
    echo "${found:-NONE}"
}

create() {
    local tier=()
    [ -z "$SPOT" ] || tier=(--spot)
    if [ -n "$QUEUED" ]; then
        tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
            --runtime-version="$VERSION" "${tier[@]}"
    else
        tpus tpu-vm create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" "${tier[@]}"
    fi
}

down() {
    if [ -n "$QUEUED" ]; then
        tpus queued-resources delete "$NAME" --force --quiet
    else
        tpus tpu-vm delete "$NAME" --quiet
    fi
}

# Create the slice, or reuse it: one that was stopped is started, one that was preempted is deleted first (it cannot be
# started again).
up() {
    need_flag type "$TYPE" v5litepod-16
    [ -n "$VERSION" ] || VERSION=$(runtime_version)
    if [ -n "$DRY_RUN" ]; then
        create
        return
    fi
    while true; do
        case $(state) in
            READY) return ;;
            NONE) create || return 1 ;;
            STOPPED) tpus tpu-vm start "$NAME" || return 1 ;;
            PREEMPTED | TERMINATED | SUSPENDED | FAILED) down || return 1 ;;
            *) sleep "$POLL_SECONDS" ;; # CREATING, WAITING_FOR_RESOURCES, PROVISIONING, SUSPENDING, ...
        esac
    done
}

# What is shipped is HEAD: say what of this checkout is not in it.
warn_of_what_stays_here() {
    local found word config
    found=$(in_git status --porcelain 2>/dev/null) || return 0
    [ -z "$found" ] || printf 'warning: HEAD (%s) is shipped, without what is not committed here:\n%.2000s\n' \
        "$(in_git rev-parse --short HEAD)" "$found" >&2
    for word in ${TRAIN_FLAGS[@]+"${TRAIN_FLAGS[@]}"}; do # also where git ignores it
        case $word in --config=*.py*) ;; *) continue ;; esac
        config=${word#--config=}
        config=${config%%.py*}.py
        in_git cat-file -e "HEAD:$config" 2>/dev/null ||
            printf 'warning: %s is not in HEAD: training will not find it\n' "$config" >&2
    done
}

in_git() {
    git -C "$(dirname "$here")" "$@"
}

install() {
    warn_of_what_stays_here
    local script archive=${TMPDIR:-/tmp}/colar_jax-$NAME.tar.gz
    script=$(cat "$here/tpu_vm_install.sh") &&
        run git -C "$(dirname "$here")" archive --format=tar.gz --output="$archive" HEAD &&
        tpus tpu-vm scp "$archive" "$NAME:colar_jax.tar.gz" --worker=all &&
        on_workers all "extras=$(quoted "tpu${EXTRAS:+,$EXTRAS}"); $script"
}

# The same command again goes on from the last checkpoint, so starting is also resuming.
start() {
    need_training
    local train mount=":"
    # Whoever made the slice again under this name has taken the place of what ran there: it may take over its lock.
    train="cd ~/colar_jax && export COLAR_JOB=$(quoted "tpu/$PROJECT/$ZONE/$NAME") && launch/with_peers.sh ~/venv/bin/python -m colar_jax.train $(quoted "${TRAIN_FLAGS[@]}")"
    [ -z "$BUCKET" ] || mount="bucket=$(quoted "$BUCKET"); $(cat "$here/tpu_vm_mount.sh")" || return 1
    on_workers all "$mount
if $AT_WORK; then
    echo still running
else
    rm -f ~/train.status
    nohup setsid bash -c $(quoted "$train; echo \$? >~/train.status") >>~/train.log 2>&1 </dev/null &
    echo \$! >~/train.pid
fi"
}

need_training() {
    [ ${#TRAIN_FLAGS[@]} -gt 0 ] || die "nothing to train: give the flags of colar_jax.train after --, as in -- --config=..."
}

command=${1:-}
case $command in
    run | up | install | start | status | logs | down) shift ;;
    *) die "name a command: launch/tpu_vm.sh run|up|install|start|status|logs|down --name=... --zone=..." ;;
esac
parse "$@"
need_flag name "$NAME" colar
need_flag zone "$ZONE" us-west4-a
need_tool gcloud "https://cloud.google.com/sdk/docs/install"
case $command in
    run)
        need_training
        if [ -n "$DRY_RUN" ]; then
            up
            install
            start
            exit
        fi
        found=$(in_git cat-file -e HEAD 2>&1) || die "HEAD cannot be shipped: $found"
        up
        watch
        ;;
    status) state; exit_status ;;
    logs) on_workers 0 'tail -n 100 -F ~/train.log' ;;
    *) "$command" ;;
esac
