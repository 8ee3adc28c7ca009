"""A real Slurm cluster of several hosts on one machine, for tests.

Each host is a set of namespaces (network, host name, mounts, processes) with its own address, ``/etc/hosts``,
``/dev/shm``, munge daemon and ``slurmd``; the file system is shared, as on a real cluster. The hosts hang on a bridge
inside the controller's namespace: nothing is added to the machine's network, nothing leads out. Addresses like
127.0.0.1 reach no other host, so a program that relies on them fails here as it does on a cluster.

The first process of each host is a child of this one and takes the whole host with it when either dies, so nothing
is left behind, not even after SIGKILL. Needs root and the Debian packages slurmctld, slurmd, slurm-client, munge and
iproute2; installs nothing. ``python -m tests.cluster.slurm_cluster`` starts one to try things on.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "unshare", "nsenter", "setpriv")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Two partitions preempt each other as on a real site: the job's own --signal comes first, then GraceTime seconds.
_SLURM_CONF = """
ClusterName=imuvid
SlurmctldHost=ctl({net}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also the delay of a requeue; 5 s is the least that Slurm takes.
AuthInfo=socket={root}/host/munge.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/host/spool
SlurmctldPidFile={root}/host/slurmctld.pid
SlurmdPidFile={root}/host/slurmd.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=5
SlurmdTimeout=10
MinJobAge=86400
ReturnToService=2
NodeName=n[1-{nodes}] NodeAddr={net}.[11-{last}] CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES PriorityTier=5 PreemptMode=OFF DefaultTime=10 State=UP
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 DefaultTime=10 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF DefaultTime=10 State=UP
"""

# Runs as process 1 of a host: bash, since it reaps what the daemons leave behind.
_HOST_SETUP = """
set -e
hostname {name}
mount -t tmpfs -o mode=755 host {root}/host
mkdir {root}/host/spool
mount -t tmpfs -o mode=1777,size=1g shm /dev/shm
mkdir -p /tmp/ray
mount -t tmpfs -o mode=1777,size=1g ray /tmp/ray
mount --bind {root}/hosts /etc/hosts
mount --bind {root}/nsswitch.conf /etc/nsswitch.conf
ip link set lo up
touch {root}/log/{name}.ready
sleep infinity & wait
"""


class ClusterUnavailable(Exception):
    """No cluster can be started on this machine; the message says why."""


class SlurmCluster:
    """A running cluster of ``num_nodes`` hosts n1, n2, ...; use it as a context manager.

    Raises:
        ClusterUnavailable: not root, no right to make namespaces, or a package is missing.
        RuntimeError: it did not come up; names the last error of each daemon.
    """

    def __init__(self, num_nodes: int = 2):
        missing = [program for program in PROGRAMS if not shutil.which(program, path=_SYSTEM_PATH)]
        if os.geteuid() != 0:
            raise ClusterUnavailable("a Slurm cluster needs root")
        if missing:
            raise ClusterUnavailable(
                f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge iproute2"
            )
        trial = subprocess.run(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "ip", "link", "add", "br0", "type", "bridge"],
            capture_output=True,
            text=True,
            env={"PATH": _SYSTEM_PATH},
        )
        if trial.returncode:
            raise ClusterUnavailable(f"network namespaces cannot be made here: {trial.stderr.strip()}")
        self.num_nodes = num_nodes
        self.root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: socket paths end at 108 bytes
        self.root.chmod(0o755)  # or munge refuses to put its socket there
        self._hosts: dict[str, int] = {}  # process 1 of each host, as numbered outside
        self._starters: dict[str, subprocess.Popen[bytes]] = {}  # of the hosts
        self._daemons: dict[tuple[str, str], subprocess.Popen[bytes]] = {}  # by host and program

    def __enter__(self) -> SlurmCluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The hosts first: their end is that of all that runs in them, and each daemon's starter reaps it and leaves.
        for process in self._starters.values():
            process.kill()
        for process in [*self._starters.values(), *self._daemons.values()]:
            process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *command: str, timeout_s: float = 60.0, env: Mapping[str, str] | None = None) -> str:
        """Run a command, such as ``squeue``, on the controller's host and return what it prints.

        Raises:
            RuntimeError: it ends with another code than 0.
        """
        result = subprocess.run(
            self._inside("ctl", *command), capture_output=True, text=True, timeout=timeout_s, env=self._client_env(env)
        )
        if result.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {result.returncode}: {result.stderr.strip()}")
        return result.stdout.strip()

    def submit(
        self,
        script: str | Path,
        *args: str,
        nodes: int = 2,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Submit a script as ``sbatch`` does and return the job's id.

        Args:
            script: path of the script.
            args: its words.
            nodes: number of hosts.
            options: more options of sbatch, such as ``--partition=low``.
            env: variables of the job beside those of this process.
        """
        log = self.root / "log" / "job-%A_%a.log" if _is_array(options) else self.root / "log" / "job-%j.log"
        words = ["sbatch", "--parsable", f"--nodes={nodes}", f"--output={log}", f"--chdir={os.getcwd()}", *options]
        return self.run(*words, str(Path(script).resolve()), *args, env=env)

    def show(self, job: str) -> dict[str, str]:
        """Return the fields of ``scontrol show job``, such as JobState, Restarts, Reason and ExitCode."""
        line = self.run("scontrol", "show", "job", "--oneliner", job).splitlines()[0]
        return dict(re.findall(r"(\w+)=(\S*)", line))

    def log(self, job: str) -> str:
        """Return what the job has printed so far, over all its runs."""
        path = self.root / "log" / f"job-{job}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, job: str, states: Sequence[str], timeout_s: float, restarts: int = 0) -> dict[str, str]:
        """Wait until the job is in one of the states after at least ``restarts`` requeues; return :meth:`show`.

        Raises:
            AssertionError: it is not in time, or has ended in another state; holds the job's log.
        """
        final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"}
        deadline = time.monotonic() + timeout_s
        while True:
            shown = self.show(job)
            state = shown["JobState"]
            if state in states and int(shown["Restarts"]) >= restarts:
                return shown
            if state in final or time.monotonic() > deadline:
                raise AssertionError(
                    f"job {job} is {state} ({shown['Reason']}) after {shown['Restarts']} restarts, "
                    f"not {' or '.join(states)} within {timeout_s:g} s. Its log:\n{self.log(job)}"
                )
            time.sleep(0.2)

    def wait_for_log(self, job: str, words: str, timeout_s: float) -> str:
        """Wait until the job has printed ``words``; return its log.

        Raises:
            AssertionError: it has not in time; holds the log.
        """
        deadline = time.monotonic() + timeout_s
        while words not in (log := self.log(job)):
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job} did not print '{words}' within {timeout_s:g} s. Its log:\n{log}")
            time.sleep(0.1)
        return log

    def clear(self) -> None:
        """Cancel all jobs and wait until the nodes are idle."""
        self.run("scancel", "--quiet", "--user=root")
        self._wait_for_idle_nodes(timeout_s=30)

    @property
    def hosts(self) -> list[str]:
        """Names of the hosts that are up."""
        return list(self._starters)

    def processes(self, host: str) -> dict[int, dict[str, str]]:
        """Return the environment that each process of a host was started with, by its number on this machine."""
        namespace = os.readlink(f"/proc/{self._hosts[host]}/ns/pid")
        found = {}
        for number in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            try:
                if os.readlink(f"/proc/{number}/ns/pid") != namespace:
                    continue
                words = Path(f"/proc/{number}/environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            found[number] = dict(word.split("=", 1) for word in words if "=" in word)
        return found

    def kill_host(self, host: str) -> None:
        """End a host with all that runs on it, as a power cut would."""
        self._starters[host].kill()
        for process in [self._starters.pop(host), *(self._daemons.pop((host, n)) for n in ("munged", "slurmd"))]:
            process.wait()

    def start_host(self, host: str) -> None:
        """Start a host that was killed, and bring it into the cluster."""
        self._start_host(host)
        self._connect([host])
        self._start_munge(host)
        self._daemon(host, "slurmd", "-D")

    def kill_slurmd(self, host: str) -> None:
        """End a host's slurmd; the tasks that it has started go on."""
        pid = self._slurmd(host)
        os.kill(pid, signal.SIGKILL)
        self._daemons.pop((host, "slurmd")).wait()

    def start_slurmd(self, host: str) -> None:
        """Start a host's slurmd again."""
        self._daemon(host, "slurmd", "-D")

    def _slurmd(self, host: str) -> int:
        # Not that of nsenter, which waits for it.
        for number in self.processes(host):
            if Path(f"/proc/{number}/comm").read_text().strip() == "slurmd":
                return number
        raise RuntimeError(f"no slurmd on {host}")

    def _start(self) -> None:
        net = "10.66.0"
        for folder in ("host", "log", "state"):
            (self.root / folder).mkdir()
        nodes = [f"n{i}" for i in range(1, self.num_nodes + 1)]
        self._addresses = {"ctl": f"{net}.1", **{node: f"{net}.{10 + i}" for i, node in enumerate(nodes, 1)}}
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._addresses.items())]
        (self.root / "hosts").write_text("\n".join(hosts) + "\n")
        files = ("passwd", "group", "shadow", "hosts", "services", "protocols")
        (self.root / "nsswitch.conf").write_text("".join(f"{name}: files\n" for name in files))
        conf = _SLURM_CONF.format(net=net, root=self.root, nodes=self.num_nodes, last=10 + self.num_nodes)
        (self.root / "slurm.conf").write_text(conf)
        # slurmd loads a cgroup plugin although nothing here uses it; this one loads where cgroups are not mounted.
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.root / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))

        for name in self._addresses:
            self._start_host(name)
        bridge = ["link add br0 type bridge", f"addr add {self._addresses['ctl']}/24 dev br0", "link set br0 up"]
        for command in bridge:
            self._ip("ctl", command)
        self._connect(nodes)
        for name in self._addresses:
            self._start_munge(name)
        self._daemon("ctl", "slurmctld", "-D", "-i")
        for node in nodes:
            self._daemon(node, "slurmd", "-D")
        self._wait_for_idle_nodes(timeout_s=30)

    def _start_host(self, name: str) -> None:
        setup = _HOST_SETUP.format(name=name, root=self.root)
        namespaces = ["--net", "--uts", "--mount", "--propagation=private", "--pid", "--fork", "--mount-proc"]
        with (self.root / "log" / f"{name}.out").open("wb") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "unshare", *namespaces, "--kill-child=KILL", "bash", "-c", setup],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": _SYSTEM_PATH},
                start_new_session=True,
            )
        self._starters[name] = process
        ready = self.root / "log" / f"{name}.ready"
        self._wait_until(ready.exists, f"host {name}")
        ready.unlink()
        self._hosts[name] = _child_of(process.pid)

    def _connect(self, nodes: Sequence[str]) -> None:
        for node in nodes:
            # Here, in the machine's own process namespace, so that the number is the node's.
            self._ip("ctl", f"link add v-{node} type veth peer name eth0 netns {self._hosts[node]}")
            self._ip("ctl", f"link set v-{node} master br0 up")
            self._ip(node, f"addr add {self._addresses[node]}/24 dev eth0")
            self._ip(node, "link set eth0 up")

    def _ip(self, host: str, command: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{self._hosts[host]}/ns/net", "ip", *command.split()], check=True)

    def _start_munge(self, host: str) -> None:
        socket, key = self.root / "host" / "munge.sock", self.root / "munge.key"
        munge = ["munged", "--foreground", f"--key-file={key}", f"--socket={socket}"]
        munge += [f"--{kind}-file={self.root}/host/munged.{kind}" for kind in ("pid", "log", "seed")]
        self._daemon(host, *munge)
        self._wait_until(lambda: self._test(host, "-S", socket), f"munged on {host}")

    def _inside(self, host: str, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._hosts[host]}", "--net", "--uts", "--mount", "--pid", *command]

    def _daemon(self, host: str, *command: str) -> None:
        with (self.root / "log" / f"{command[0]}-{host}.out").open("wb") as output:
            self._daemons[host, command[0]] = subprocess.Popen(
                self._inside(host, *command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": _SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8", **self._conf_env()},
                start_new_session=True,
            )

    def _test(self, host: str, *words: object) -> bool:
        return subprocess.run(self._inside(host, "test", *map(str, words))).returncode == 0

    def _conf_env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    def _client_env(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, **self._conf_env(), **(extra or {})}

    def _wait_for_idle_nodes(self, timeout_s: float) -> None:
        def idle() -> bool:
            try:
                names = self.run("sinfo", "-h", "-N", "-p", "normal", "-t", "idle", "-o", "%N")
            except RuntimeError:
                return False
            return len(set(names.split())) == self.num_nodes

        self._wait_until(idle, "the idle state of all nodes", timeout_s)

    def _wait_until(self, condition, what: str, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                logs = [path for path in sorted((self.root / "log").iterdir()) if not path.name.startswith("job-")]
                ends = [f"{path.name}: {lines[-1]}" for path in logs if (lines := path.read_text().splitlines())]
                raise RuntimeError(f"waited {timeout_s:g} s for {what}. Last words: " + "; ".join(ends))
            time.sleep(0.05)


def _child_of(parent: int) -> int:
    """Return the number of the only child of a process."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == parent:
            return int(entry.name)
    raise RuntimeError(f"process {parent} has no child")


def _is_array(options: Sequence[str]) -> bool:
    return any(option.startswith(("--array", "-a")) for option in options)


if __name__ == "__main__":
    with SlurmCluster() as cluster:
        command = shlex.join(cluster._inside("ctl", "env", f"SLURM_CONF={cluster.root}/slurm.conf", "bash"))
        print(f"up; a shell on its controller: {command}\nEnter ends it", flush=True)
        input()
