#!/bin/sh
# Runs a training in N processes on this machine, as on N hosts, and watches over them.
set -u

usage() {
    cat <<'EOF'
usage: scripts/local_multihost.sh N COMMAND...

Runs COMMAND, a `gloro-jax train ...`, in N processes that train together, each with
--coordinator, --processes and --process added. Process 0 prints here; the others write to
multihost-1.log, multihost-2.log, ... in $LOGS (the current folder unless set).
The first process that fails is named, and the others are ended.

  JAX_NUM_CPU_DEVICES=2 scripts/local_multihost.sh 2 \
      .venv/bin/gloro-jax train digits --run runs/together --epochs 20
EOF
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
'' | *[!0-9]*)
    usage >&2
    exit 2
    ;;
esac
count=$1
shift
if [ $# -eq 0 ] || [ "$count" -lt 1 ]; then
    usage >&2
    exit 2
fi
port=${PORT:-$((20000 + $$ % 20000))}
logs=${LOGS:-.}

processes=
end_all() {
    for process in $processes; do kill -TERM "$process" 2>/dev/null; done
}
start() { # `exec`: signals reach the training itself
    exec "$@" --coordinator "127.0.0.1:$port" --processes "$count" --process "$number"
}

number=0
while [ "$number" -lt "$count" ]; do
    if [ "$number" -eq 0 ]; then
        start "$@" &
    else
        start "$@" >"$logs/multihost-$number.log" 2>&1 &
    fi
    processes="$processes $!"
    number=$((number + 1))
done
# Set now, and not before: a child that is told to end before it is the command would obey this trap.
trap end_all INT TERM

failed=0
left=$processes
while [ -n "$left" ]; do
    still=
    number=0
    for process in $processes; do
        case " $left " in
        *" $process "*)
            if kill -0 "$process" 2>/dev/null; then
                still="$still $process"
            else
                wait "$process"
                status=$?
                if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
                    failed=$status
                    echo "Process $number ended with status $status; ending the others. Its" \
                        "words: $([ "$number" -eq 0 ] && echo above || echo "$logs/multihost-$number.log")" >&2
                    end_all
                fi
            fi
            ;;
        esac
        number=$((number + 1))
    done
    left=$still
    [ -n "$left" ] && sleep 1
done
exit "$failed"
