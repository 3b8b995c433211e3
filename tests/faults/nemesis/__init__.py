"""What is done to the nodes, the ensemble, the network and the disks of a run."""

from __future__ import annotations

from tests.faults.nemesis import disks, network, operators, processes, zookeeper
from tests.faults.nemesis.fault import Fault

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        processes.KillLeader,
        processes.KillFollower,
        processes.KillAll,
        processes.PauseLeader,
        processes.PauseFollower,
        processes.Hammer,
        processes.RollingRestart,
        processes.Failpoint,
        processes.RestartStale,
        processes.LoseStore,
        zookeeper.KillZkFollower,
        zookeeper.KillZkLeader,
        zookeeper.KillZkOfLeader,
        zookeeper.PauseZkLeader,
        zookeeper.PauseZkFollower,
        zookeeper.QuorumLoss,
        zookeeper.RollingZkRestart,
        zookeeper.SlowZkDisk,
        zookeeper.ExpireSession,
        network.ZkReplyLost,
        network.ZkHold,
        network.ZkDelay,
        network.ZkBlackholeIn,
        network.ZkBlackholeOut,
        network.ZkThrottle,
        network.ZkHalfOpen,
        network.IsolateFromZk,
        network.PeerBlackholeIn,
        network.PeerBlackholeOut,
        network.IsolateFromPeers,
        network.Isolate,
        network.PeerReset,
        network.SnapshotCut,
        network.ForwardReplyLost,
        network.PushDuplicate,
        network.PushReorder,
        network.PushDelay,
        disks.DiskFull,
        disks.FsyncEio,
        disks.WriteEio,
        disks.SlowFsync,
        operators.Transfer,
        operators.CatchUp,
    )
}
"""Every kind of fault, by its name."""

__all__ = ["FAULTS", "Fault"]
