# shellcheck shell=bash
# The part of launch/tpu_vm.sh that waits: gets training to run on all workers of the slice, and keeps it running.

# Whether training is at work on a worker, which expands this; also training whose shell was killed: it is the shell's
# process group then.
# shellcheck disable=SC2016
AT_WORK='[ -e ~/train.pid ] && [ ! -e ~/train.status ] && pid=$(cat ~/train.pid) &&
    { kill -0 "$pid" || kill -0 -- "-$pid"; } 2>/dev/null'

# What is to be done before there is something to watch: `install`, `start`, or nothing.
NEXT=install

running() { # WORKERS: something, if training runs on one of them
    on_workers "$1" "$AT_WORK && echo yes || true"
}

nothing_runs() { # and that is known: a worker that cannot be asked is no answer
    local found
    found=$(running all) && [ -z "$found" ]
}

exit_status() {
    on_workers 0 'cat ~/train.status 2>/dev/null || true'
}

# A status of any worker with which it is not to be started again; nothing where there is none.
failure() {
    # shellcheck disable=SC2016 # the worker expands it
    on_workers all 'case $(cat ~/train.status 2>/dev/null) in 0 | 75 | 143 | "") ;; *) cat ~/train.status ;; esac'
}

# What is left to do of installing and starting. Nothing is installed under training that runs.
prepare() {
    local found
    if [ "$NEXT" = install ]; then
        found=$(running all) || return 1
        if [ -n "$found" ]; then
            NEXT=""
            return
        fi
        install || return 1
        NEXT=start
    fi
    start || return 1
    NEXT=""
}

# Until the training ends. 143 (SIGTERM) and 75 (another worker was lost) mean: saved, start again; so does no status at
# all, as after a worker's restart; but not for ever where a worker is lost as soon as it has started.
watch() {
    local ended of_another since=$SECONDS is_gone="" lost_early=0 failed=0
    while true; do
        if [ -n "$NEXT" ]; then
            if prepare; then
                since=$SECONDS is_gone="" failed=0
            else # as on machines that were just made: no ssh yet, or their own updates
                failed=$((failed + 1)) # what is permanent, as a bucket that is not there, is not paid for without end
                [ "$failed" -lt 20 ] || give_up "training could not be started, 20 times in a row" 0
                echo "training was not started on all workers of $NAME: trying again in $POLL_SECONDS s" >&2
            fi
        elif ended=$(exit_status); then
            case $ended in
                0) echo "training has ended"; return ;;
                75 | 143 | "") ;;
                *) give_up "training ended with status $ended" 0 ;;
            esac
            if ! nothing_runs; then # not before all workers have ended: one that still runs would be missing then
                is_gone=""
            elif [ -z "$ended" ] && [ -z "$is_gone" ]; then
                is_gone=1 # or has ended since it was asked for its status: the next look says
            elif of_another=$(failure); then
                [ -z "$of_another" ] ||
                    give_up "training ended with status ${of_another%%$'\n'*} on one of the workers" all
                if [ "$ended" != 143 ] && [ $((SECONDS - since)) -lt 600 ]; then
                    lost_early=$((lost_early + 1))
                else
                    lost_early=0
                fi
                [ "$lost_early" -le 3 ] || give_up "a worker was lost within ten minutes, four times in a row" 0
                NEXT=start
                continue
            fi
        fi
        sleep "$POLL_SECONDS"
        [ "$(state)" = READY ] || make_again
    done
}

make_again() {
    echo "the slice $NAME is gone, or cannot be asked: making it again where it is not there" >&2
    NEXT=install
    until up; do sleep "$POLL_SECONDS"; done
}

give_up() { # WHY WORKERS
    on_workers "$2" 'tail -n 20 ~/train.log' || true
    printf 'error: %s; the log is above\n' "$1" >&2
    exit 1
}
