#!/bin/sh
# Keeps a training going: runs it again with --resume for as long as it is interrupted.
set -u

usage() {
    cat <<'EOF'
usage: scripts/babysit.sh COMMAND...

Runs COMMAND, a `gloro-jax train ... --run DIR`, with --resume added, again and again: after a
preemption (SIGTERM), a crash, or a peer that died. It stops when training has ended, on bad input
(status 2), on Ctrl-C, where there is no such command, and after $TRIES failures (10 unless set) none of which took a checkpoint
further. $RECREATE, if set, is run before each new try: a command that makes the machines again.
COMMAND must last as long as training does and end with its status. DIR may lie in a bucket, gs:// or
s3://, whose checkpoints gcloud or aws lists.

  scripts/babysit.sh gloro-jax train imagenet_liresnet_l12w588 --run runs/imagenet
  RECREATE="scripts/tpu_pod.sh recreate" scripts/babysit.sh scripts/tpu_pod.sh train \
      imagenet_liresnet_l12w588 --run gs://bucket/runs/imagenet
EOF
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
'' | -*)
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
    case "$run" in
    gs://*) gcloud storage ls "$run/checkpoints/" ;;
    s3://*) aws s3 ls "$run/checkpoints/" ;;
    *) ls -d "$run"/checkpoints/*/ ;;
    esac 2>/dev/null | sed -n 's#^\(.*[ /]\)\{0,1\}\([0-9][0-9]*\)/$#\2#p' | sort -n | tail -n 1
}

tries=${TRIES:-10}
left=$tries
before=$(newest)
while :; do
    "$@" --resume
    status=$?
    case "$status" in
    0) exit 0 ;;
    2 | 126 | 127 | 130) exit "$status" ;; # bad input, no such command, Ctrl-C
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
