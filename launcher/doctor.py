"""Is this machine, or this set of ranks, fit for a pretraining, and what will hold it up? ``imuvid doctor``."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

BROKEN, DOUBTFUL, GOOD = "broken", "doubtful", "good"
Resolve = Callable[[str], Sequence[str]]


@dataclass
class Finding:
    """One line of the doctor's."""

    verdict: str
    """broken (nothing can run so), doubtful (slow, or soon broken), good."""
    subject: str
    text: str


@dataclass
class Report:
    """All that was found."""

    hosts: list[str]
    ranks: int
    backend: str
    """gloo or nccl; empty where the ranks did not meet."""
    findings: list[Finding]
    figures: dict[str, float]
    """What was measured, by the names of PlanConfig: `imuvid plan CONFIG plan.doctor=FILE` takes them."""
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        """Whether anything is."""
        return any(finding.verdict == BROKEN for finding in self.findings)

    def lines(self) -> list[str]:
        """Return the report as text, broken things last, where they are seen."""
        order = (GOOD, DOUBTFUL, BROKEN)
        found = sorted(self.findings, key=lambda finding: order.index(finding.verdict))
        return [f"{finding.verdict:8}  {finding.subject}: {finding.text}" for finding in found]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "broken": self.broken}


def addresses_of(host: str) -> list[str]:
    """Return the addresses that a host name stands for; none where it is not known."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except OSError:
        return []


def network_findings(
    environ: Mapping[str, str],
    interfaces: Sequence[str] | None = None,
    hostname: str | None = None,
    resolve: Resolve = addresses_of,
) -> list[Finding]:
    """Return the mistakes that keep ranks from meeting, as far as one rank can see them by itself.

    Args:
        environ: of the rank.
        interfaces: names of this machine's; None to ask it.
        hostname: of this machine; None to ask it.
        resolve: addresses of a host name.
    """
    names = [name for _, name in socket.if_nameindex()] if interfaces is None else list(interfaces)
    host = socket.gethostname() if hostname is None else hostname
    findings = []
    for variable, chosen in (
        ("NCCL_SOCKET_IFNAME", _nccl_interfaces),
        ("GLOO_SOCKET_IFNAME", _gloo_interfaces),
    ):
        value = environ.get(variable)
        if value is not None and not chosen(value, names):
            findings.append(
                Finding(
                    BROKEN,
                    variable,
                    f"'{value}' is no interface of {host}: it has {', '.join(names)}; unset or mend it",
                )
            )
    if int(environ.get("WORLD_SIZE", 1)) <= int(environ.get("LOCAL_WORLD_SIZE", 1)):
        return findings
    master = environ.get("MASTER_ADDR", "")
    for name, what in ((host, "this host's own name"), (master, "MASTER_ADDR")):
        found = resolve(name)
        if not found:
            findings.append(Finding(BROKEN, what, f"{name} is not known on {host}: add it to DNS or /etc/hosts"))
        elif all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found):
            if name == host and "GLOO_SOCKET_IFNAME" in environ:
                continue
            mend = "set GLOO_SOCKET_IFNAME to the interface of the network" if name == host else "name the first host"
            findings.append(
                Finding(BROKEN, what, f"{name} is {found[0]} on {host}, which no other host reaches: {mend}")
            )
    return findings


def device_findings(environ: Mapping[str, str], visible: int, device: str) -> list[Finding]:
    """Return whether the ranks of this machine have the devices that they need.

    Args:
        environ: of the rank.
        visible: number of GPUs that it sees.
        device: engine.device: auto, cpu or cuda.
    """
    local = int(environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "cuda" and visible == 0:
        return [
            Finding(BROKEN, "devices", "engine.device=cuda, but torch sees no GPU: mend the driver or the job's --gpus")
        ]
    if device == "cpu" or visible == 0:
        idle = f"; {visible} GPUs are not used" if visible else ""
        return [Finding(DOUBTFUL if visible else GOOD, "devices", f"CPU, {_cores()} cores for {local} ranks{idle}")]
    if 1 < visible < local:
        return [Finding(BROKEN, "devices", f"{local} ranks a node, but {visible} GPUs: start {visible} ranks")]
    return [Finding(GOOD, "devices", f"{visible} GPUs seen by each of {local} ranks a node")]


def nccl_findings(environ: Mapping[str, str], has_infiniband: bool) -> list[Finding]:
    """Return the settings of NCCL that make it slow without a word."""
    findings = []
    if environ.get("NCCL_IB_DISABLE") == "1" and has_infiniband:
        text = "1, though there is InfiniBand here: gradients go over sockets"
        findings.append(Finding(DOUBTFUL, "NCCL_IB_DISABLE", text))
    for name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"):
        if environ.get(name) == "1":
            findings.append(Finding(DOUBTFUL, name, "1: GPUs of a node exchange by a detour"))
    return findings


def same_everywhere(by_rank: Sequence[tuple[str, Mapping[str, str | None]]]) -> list[Finding]:
    """Return which packages differ between hosts; ``by_rank`` has host and versions of each rank."""
    first_host, first = by_rank[0]
    findings = []
    for host, versions in dict(by_rank).items():
        differ = [
            f"{name} {first.get(name)} and {versions.get(name)}" for name in first if first[name] != versions.get(name)
        ]
        if differ:
            text = f"{first_host} and {host} have {'; '.join(differ)}: install one environment for both"
            findings.append(Finding(BROKEN, "versions", text))
    return findings


def _nccl_interfaces(value: str, names: Sequence[str]) -> list[str]:
    """What NCCL_SOCKET_IFNAME leaves: prefixes, or names after ``=``; those to leave out after ``^``."""
    excludes, exact = value.startswith("^"), value.lstrip("^").startswith("=")
    wanted = [word for word in value.lstrip("^").lstrip("=").split(",") if word]

    def hit(name: str) -> bool:
        return any(name == word if exact else name.startswith(word) for word in wanted)

    return [name for name in names if hit(name) != excludes]


def _gloo_interfaces(value: str, names: Sequence[str]) -> list[str]:
    """What GLOO_SOCKET_IFNAME names; none where one of its names is wrong."""
    wanted = value.split(",")
    return wanted if all(word in names for word in wanted) else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
