//! What a cluster manager is told about a node: whether it serves, whether that is all right, and how good it would
//! be as the active one.
//!
//! A score follows the quality of the node's data and is never negative: a negative one makes Pacemaker stop the
//! instance, and start it, and stop it again. The active node keeps the best score whatever becomes of its peer, so a
//! score alone never moves a service that runs.

/// Time in milliseconds after which a change that only the active node has is a matter for the operator.
pub const WAITS_LONG: u64 = 60_000;

/// The data are those of the active node.
const BEST: u32 = 10_000;
/// The data are whole, but nobody says that they are the newest.
const GOOD: u32 = 1_000;
/// Whatever is here may be incomplete, or halted, or nothing at all; better than no service.
const POOR: u32 = 10;

/// What is known of a node; the words are those of `status --json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition<'a> {
    /// `active`, `standby` or `stopped`.
    pub role: &'a str,
    /// `in-sync`, `catching-up`, `unreachable`, `diverged` or `halted`.
    pub peer: &'a str,
    /// Whether the node ever held replicated data.
    pub has_data: bool,
    /// Whether its tree is between two states, since a catch-up was interrupted.
    pub incomplete: bool,
    /// Age in milliseconds of the oldest change that the peer lacks.
    pub oldest_ms: u64,
    /// Whether a guard halted the replication of a root, while that of others goes on.
    pub halted: bool,
}

/// Whether a node is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It is.
    Ok,
    /// It works, but somebody should look at it.
    Degraded,
}

impl Health {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
}

/// Whether the cluster manager should show the node as degraded.
#[must_use]
pub fn health(c: Condition<'_>) -> Health {
    let bad = match c.peer {
        _ if c.halted => true,
        "diverged" | "halted" => true,
        // A peer that is down is for the cluster manager to notice; that changes pile up here is for us to tell.
        "unreachable" => c.role == "active" && c.oldest_ms >= WAITS_LONG,
        _ => false,
    };
    if bad { Health::Degraded } else { Health::Ok }
}

/// How good the node would be as the active one.
#[must_use]
pub fn promotion_score(c: Condition<'_>) -> u32 {
    match (c.role, c.peer) {
        ("active", _) => BEST,
        _ if !c.has_data || c.incomplete => POOR,
        ("standby", "in-sync") => BEST,
        (_, "catching-up" | "diverged" | "halted") => POOR,
        _ => GOOD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [&str; 3] = ["active", "standby", "stopped"];
    const PEERS: [&str; 5] = [
        "in-sync",
        "catching-up",
        "unreachable",
        "diverged",
        "halted",
    ];

    fn on(role: &'static str, peer: &'static str) -> Condition<'static> {
        Condition {
            role,
            peer,
            has_data: true,
            incomplete: false,
            oldest_ms: 0,
            halted: false,
        }
    }

    #[test]
    fn scores_follow_the_data() {
        for (condition, score) in [
            (on("active", "in-sync"), 10_000),
            (on("active", "unreachable"), 10_000),
            (on("active", "diverged"), 10_000),
            (on("standby", "in-sync"), 10_000),
            (on("standby", "catching-up"), 10),
            (on("standby", "unreachable"), 1_000),
            (on("stopped", "unreachable"), 1_000),
            (on("standby", "diverged"), 10),
            (on("standby", "halted"), 10),
        ] {
            assert_eq!(promotion_score(condition), score, "{condition:?}");
        }
        for role in ["standby", "stopped"] {
            for peer in PEERS {
                let mut c = on(role, peer);
                c.incomplete = true;
                assert_eq!(promotion_score(c), 10, "{c:?}");
                c = on(role, peer);
                c.has_data = false;
                assert_eq!(promotion_score(c), 10, "{c:?}");
            }
        }
    }

    #[test]
    fn no_standby_is_rated_above_the_active_node() {
        let active = PEERS.map(|p| promotion_score(on("active", p)));
        for role in ROLES {
            for peer in PEERS {
                let other = promotion_score(on(role, peer));
                assert!(active.iter().all(|a| *a >= other), "{role} {peer}");
                assert!(other > 0, "{role} {peer}");
            }
        }
    }

    #[test]
    fn degraded_is_what_a_person_must_look_at() {
        for role in ROLES {
            for peer in PEERS {
                let expected = matches!(peer, "diverged" | "halted");
                let bad = health(on(role, peer)) == Health::Degraded;
                assert_eq!(bad, expected, "{role} {peer}");
            }
        }
        let mut waits = on("active", "unreachable");
        waits.oldest_ms = WAITS_LONG - 1;
        assert_eq!(health(waits), Health::Ok);
        waits.oldest_ms = WAITS_LONG;
        assert_eq!(health(waits), Health::Degraded);
        waits.peer = "in-sync";
        assert_eq!(health(waits), Health::Ok);
        waits.halted = true;
        assert_eq!(health(waits), Health::Degraded);
        assert_eq!(promotion_score(waits), 10_000, "the service stays");
    }
}
