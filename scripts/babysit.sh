#!/bin/sh
# Keeps a training going: runs it again with --resume for as long as it is interrupted.
set -u

usage() {
    cat <<'EOF'
usage: scripts/babysit.sh COMMAND...

Runs COMMAND, a `gloro-jax train ... --run DIR`, with --resume added, again and again: after a
preemption (SIGTERM), a crash, or a peer that died. It stops when training has ended, on bad input
(status 2), on Ctrl-C, and after $TRIES failures (10 unless set) none of which took a checkpoint
further. $RECREATE, if set, is run before each new try: a command that makes the machines again.

  RECREATE="scripts/tpu_pod.sh create" scripts/babysit.sh scripts/tpu_pod.sh launch \
      imagenet_liresnet_l12w588 --run gs-mount/runs/imagenet
EOF
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
'')
    usage >&2
    exit 2
    ;;
esac

run=
previous=
for word in "$@"; do
    case "$previous" in --run) run=$word ;; esac
    case "$word" in --run=*) run=${word#--run=} ;; esac
    previous=$word
done

newest() {
    for folder in "$run"/checkpoints/[0-9]*; do [ -d "$folder" ] && basename "$folder"; done |
        sort -n | tail -n 1
}

tries=${TRIES:-10}
left=$tries
before=$(newest)
while :; do
    "$@" --resume
    status=$?
    case "$status" in
    0) exit 0 ;;
    2 | 130) exit "$status" ;;
    esac
    now=$(newest)
    if [ "$now" != "$before" ]; then
        left=$tries
        before=$now
    else
        left=$((left - 1))
    fi
    if [ "$left" -le 0 ]; then
        echo "babysit: $tries failures without a new checkpoint (the last: status $status). See above." >&2
        exit "$status"
    fi
    echo "babysit: status $status at checkpoint ${now:-none}; trying again, $left failures left." >&2
    [ -n "${RECREATE:-}" ] && sh -c "$RECREATE"
    sleep "${PAUSE:-10}"
done
