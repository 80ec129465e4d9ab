"""The shell scripts: usage that teaches, commands that are printed before they are run."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
SHELL = sorted(path for path in SCRIPTS.iterdir() if path.suffix in (".sh", ".sbatch"))


def run(*words, **changes):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, **changes)


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_every_script_explains_itself(script):
    assert run("sh", "-n", script).returncode == 0
    told = run(script, "-h")
    assert told.returncode == 0
    assert script.name in told.stdout


def test_the_pod_s_commands_are_printed_with_their_words_intact():
    told = run(
        SCRIPTS / "tpu_pod.sh", "--dry-run", "launch", "digits", "--run", "it's $HOME",
        env={"PATH": "/usr/bin:/bin", "NAME": "pod", "ZONE": "here"},
    )  # fmt: skip
    assert told.returncode == 0
    assert "ssh pod --zone=here --worker=all" in told.stdout
    remote = told.stdout.split("--command=")[1].split("gloro-jax train ")[1].split(" --resume")[0]
    assert run("sh", "-c", f"printf '%s|' {remote}").stdout == "digits|--run|it's $HOME|"
    assert run(SCRIPTS / "tpu_pod.sh", "--dry-run", "explode").returncode == 2
    assert run(SCRIPTS / "tpu_pod.sh", "--dry-run", "launch", "digits").returncode == 2


def test_a_run_is_fetched_from_where_it_lies():
    sources = {
        "gs://b/r": "cp --recursive gs://b/r",
        "/mnt/r": "pod:/mnt/r",
        "r": "pod:gloro-jax/r",
    }
    for place, source in sources.items():
        told = run(
            SCRIPTS / "tpu_pod.sh", "--dry-run", "fetch", place, "here",
            env={"PATH": "/usr/bin:/bin", "NAME": "pod"},
        )  # fmt: skip
        assert f"{source} here" in told.stdout


def test_what_can_never_work_is_not_tried_again():
    babysit = run(SCRIPTS / "babysit.sh", "there-is-no-such-command")
    assert (babysit.returncode, "trying again" in babysit.stderr) == (127, False)
    assert run(SCRIPTS / "babysit.sh", "--dry-run", "echo").returncode == 2
    slurm = run(SCRIPTS / "slurm.sbatch", "digits", env={"PATH": "/usr/bin:/bin"})
    assert (slurm.returncode, "no srun" in slurm.stderr) == (2, True)


# Stands in for gcloud: a slice that is there when it is asked for the third time.
GCLOUD = """\
#!/bin/sh
echo "$*" >> calls
case "$*" in
*delete*) exit 1 ;;
*describe*) [ "$(grep -c describe calls)" -lt 3 ] && echo PROVISIONING || echo ${ENDS:-ACTIVE} ;;
"storage ls"*) printf 'gs://b/run/checkpoints/\\ngs://b/run/checkpoints/9/\\n' ;;
esac
"""


def stand_in(folder):
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "PAUSE": "0", "NAME": "pod", "TRIES": "2"}


def test_a_slice_is_made_again_and_waited_for(tmp_path):
    settings = {"cwd": tmp_path, "env": stand_in(tmp_path)}
    (tmp_path / "git").write_text("#!/bin/sh\n")
    (tmp_path / "git").chmod(0o755)
    told = run(SCRIPTS / "tpu_pod.sh", "recreate", **settings)
    assert told.returncode == 0, told.stderr
    words = ("delete", "create", "describe", "scp", "ssh")
    lines = (tmp_path / "calls").read_text().splitlines()
    calls = [next(word for word in words if word in line) for line in lines]
    assert calls == ["delete", "create", *3 * ["describe"], "scp", "ssh"]
    (tmp_path / "calls").unlink()
    settings["env"]["ENDS"] = "FAILED"
    told = run(SCRIPTS / "tpu_pod.sh", "recreate", **settings)
    assert told.returncode == 1
    assert "ended as FAILED" in told.stderr
    assert "ssh" not in (tmp_path / "calls").read_text()


def test_checkpoints_in_a_bucket_count_as_progress(tmp_path):
    env = stand_in(tmp_path)
    (tmp_path / "dead").write_text("exit 5")
    words = [SCRIPTS / "babysit.sh", "sh", "dead", "--run", "gs://b/run"]
    told = run(*words, cwd=tmp_path, env=env)
    assert told.returncode == 5
    assert "status 5 at checkpoint 9; trying again, 1 failures left" in told.stderr
    # Each look finds a checkpoint more; after five of them the command ends well.
    (tmp_path / "calls").unlink()
    (tmp_path / "gcloud").write_text(
        'echo >> calls; echo "gs://b/run/checkpoints/$(wc -l < calls)/"'
    )
    (tmp_path / "dead").write_text("[ $(wc -l < calls) -gt 5 ] || exit 5")
    assert run(*words, cwd=tmp_path, env=env).returncode == 0


# Fails twice, the second time with a new checkpoint, then succeeds; counts its calls.
FLAKY = """\
echo call >> calls
case $(wc -l < calls) in
1) exit 143 ;;
2) mkdir -p run/checkpoints/7; exit 1 ;;
*) exit 0 ;;
esac
"""


def test_a_training_is_kept_going_until_it_ends_or_gets_no_further(tmp_path):
    (tmp_path / "flaky").write_text(FLAKY)
    babysit = [SCRIPTS / "babysit.sh", "sh"]
    settings = {"cwd": tmp_path, "env": {"PATH": "/usr/bin:/bin", "TRIES": "2", "PAUSE": "0"}}
    told = run(*babysit, "flaky", "--run", "run", **settings)
    assert told.returncode == 0
    assert (tmp_path / "calls").read_text().count("call") == 3
    assert "status 1 at checkpoint 7" in told.stderr
    (tmp_path / "dead").write_text("echo call >> deaths; exit 5")
    told = run(*babysit, "dead", "--run", "run", **settings)
    assert told.returncode == 5
    assert (tmp_path / "deaths").read_text().count("call") == 2
    (tmp_path / "wrong").write_text("echo call >> wrongs; exit 2")
    assert run(*babysit, "wrong", "--run", "run", **settings).returncode == 2
    assert (tmp_path / "wrongs").read_text().count("call") == 1


def test_the_first_process_that_fails_is_named_and_the_others_are_ended(tmp_path):
    (tmp_path / "part").write_text(
        'for word; do last=$word; done; [ "$last" = 1 ] && exit 7; exec sleep 60'
    )
    told = run(
        SCRIPTS / "local_multihost.sh", "3", "sh", "part", cwd=tmp_path, timeout=30,
    )  # fmt: skip
    assert told.returncode == 7
    assert "Process 1 ended with status 7" in told.stderr
    assert "multihost-1.log" in told.stderr
