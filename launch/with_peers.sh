#!/usr/bin/env bash
# Runs a command and ends with its status, or with 75 where jax ended it because another process of the run was lost.
#
#   launch/with_peers.sh .venv/bin/python -m colar_jax.train --config=...
#
# Training that hears of the loss by an error ends with 75 itself. Where it does not, as in a collective that waits for
# ever, jax's runtime misses the other's heartbeat and aborts the process: 134, as after a fault of its own. What it says
# before, on standard error, tells them apart.
set -uo pipefail
said=$(mktemp) || exit
trap 'rm -f "$said"' EXIT
trap : TERM INT HUP # training answers them, and this waits for it
{
    "$@" 2>&1 >&3 3>&- | (trap '' TERM INT HUP && exec tee "$said" >&2 3>&-)
    status=${PIPESTATUS[0]}
} 3>&1
if [ "$status" = 134 ] && grep -q "JAX distributed service detected fatal errors" "$said"; then
    echo "another process was lost: status 75" >&2
    status=75
fi
exit "$status"
