#!/bin/sh
# A Cloud TPU pod slice for a training: create, set up, train on all workers, follow, fetch, delete.
set -eu

usage() {
    cat <<'EOF'
usage: scripts/tpu_pod.sh [--dry-run] ACTION [ARGUMENTS]

  create                     a queued TPU slice, $NAME of $TYPE in $ZONE (spot unless SPOT=)
  setup                      this checkout and its environment, on every worker
  launch RECIPE --run DIR    gloro-jax train, detached, on every worker at once, with --resume
  train RECIPE --run DIR     the same, and waits: ends when training ends, with its status
  follow                     what worker 0 prints, as it prints it
  fetch DIR HERE             copies a run folder to this machine, from a bucket or from worker 0
  delete                     ends the slice, and its costs
  recreate                   delete, create, wait until the slice is there, setup

  --dry-run                  prints the commands instead of running them

NAME (gloro-jax), TYPE (v5litepod-16), ZONE (us-central1-a), VERSION (v2-alpha-tpuv5-lite) and
PROJECT (gcloud's own) come from the environment. DIR must be on storage that all workers share, as
a bucket is: --run gs://BUCKET/runs/NAME. A v5litepod-16 costs by the chip-hour: delete it.

A spot slice that is taken away is made again, and training goes on, by
  RECREATE="scripts/tpu_pod.sh recreate" scripts/babysit.sh scripts/tpu_pod.sh train RECIPE --run DIR
EOF
}

run=
if [ "${1:-}" = --dry-run ]; then
    run="echo"
    shift
fi
name=${NAME:-gloro-jax} type=${TYPE:-v5litepod-16} zone=${ZONE:-us-central1-a}
version=${VERSION:-v2-alpha-tpuv5-lite}
where="--zone=$zone${PROJECT:+ --project=$PROJECT}"

on_workers() { # WORKERS COMMAND
    # shellcheck disable=SC2086  # $where is two options
    $run gcloud compute tpus tpu-vm ssh "$name" $where --worker="$1" --command="$2"
}

quoted() { # arguments, each safe for a remote shell
    for word in "$@"; do
        printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"
    done
}

action=${1:-}
[ $# -gt 0 ] && shift
case "$action" in
create)
    # shellcheck disable=SC2086
    $run gcloud compute tpus queued-resources create "$name" --node-id="$name" $where \
        --accelerator-type="$type" --runtime-version="$version" ${SPOT---spot}
    ;;
setup)
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    $run git archive --format=tar.gz --output="$archive" HEAD
    # shellcheck disable=SC2086
    $run gcloud compute tpus tpu-vm scp "$archive" "$name:gloro-jax.tar.gz" $where --worker=all
    on_workers all "mkdir -p gloro-jax && tar -xzf gloro-jax.tar.gz -C gloro-jax && \
python3 -m venv gloro-jax/.venv && gloro-jax/.venv/bin/pip install -q -e 'gloro-jax[tpu,gcs]'"
    ;;
launch | train)
    [ $# -ge 1 ] || { usage >&2; exit 2; }
    case " $*" in
    *" --run"[\ =]*) ;;
    *) echo "tpu_pod: $action takes --run DIR, on storage that all workers share." >&2 && exit 2 ;;
    esac
    training=".venv/bin/gloro-jax train $(quoted "$@")--resume"
    [ "$action" = train ] || training="nohup $training > train.log 2>&1 < /dev/null &"
    on_workers all "cd gloro-jax && $training"
    ;;
follow) on_workers 0 "tail -n 50 -f gloro-jax/train.log" ;;
fetch)
    [ $# -eq 2 ] || { usage >&2; exit 2; }
    case "$1" in
    gs://*) $run gcloud storage cp --recursive "$1" "$2" ;;
    /*) from=$1 ;;
    *) from=gloro-jax/$1 ;;
    esac
    # shellcheck disable=SC2086
    [ -z "${from:-}" ] || $run gcloud compute tpus tpu-vm scp --recurse "$name:$from" "$2" $where --worker=0
    ;;
delete)
    # shellcheck disable=SC2086
    $run gcloud compute tpus queued-resources delete "$name" $where --force --quiet
    ;;
recreate)
    again=${run:+--dry-run}
    # shellcheck disable=SC2086  # nothing, or one option
    "$0" $again delete || echo "tpu_pod: nothing of the name $name to delete; going on." >&2
    # shellcheck disable=SC2086
    "$0" $again create
    while :; do
        # shellcheck disable=SC2086
        state=$($run gcloud compute tpus queued-resources describe "$name" $where \
            --format='value(state.state)') || state="not known"
        [ -z "$run" ] || { echo "$state"; break; }
        case "$state" in
        ACTIVE) break ;;
        FAILED | SUSPENDED) echo "tpu_pod: the request for $name ended as $state." >&2; exit 1 ;;
        esac
        echo "tpu_pod: $name is $state; waiting." >&2
        sleep "${PAUSE:-30}"
    done
    # shellcheck disable=SC2086
    "$0" $again setup
    ;;
-h | --help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
