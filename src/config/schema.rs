//! Everything the file may contain: tables and their keys. What is not listed here is refused.

/// One table of the file.
pub(super) struct TableSchema {
    /// How it is written, as `[sync]` or `[[root]]`.
    pub(super) title: &'static str,
    /// Its keys.
    pub(super) keys: &'static [&'static str],
}

impl TableSchema {
    /// Its key in the file.
    pub(super) fn name(&self) -> &'static str {
        self.title.trim_matches(['[', ']'])
    }

    /// Whether it may be there more than once.
    pub(super) fn repeats(&self) -> bool {
        self.title.starts_with("[[")
    }
}

/// Every table and every key.
pub(super) const SCHEMA: &[TableSchema] = &[
    TableSchema {
        title: "[cluster]",
        keys: &["name"],
    },
    TableSchema {
        title: "[[node]]",
        keys: &[
            "name",
            "address",
            "user",
            "port",
            "identity_file",
            "known_hosts",
            "ssh_config",
            "remote_command",
            "command",
            "root_prefix",
            "state_dir",
            "run_dir",
        ],
    },
    TableSchema {
        title: "[[root]]",
        keys: &["name", "path", "exclude"],
    },
    TableSchema {
        title: "[vip]",
        keys: &["address", "wait", "flush_conntrack"],
    },
    TableSchema {
        title: "[[snat]]",
        keys: &[
            "destination",
            "out_interface",
            "protocol",
            "port",
            "address",
        ],
    },
    TableSchema {
        title: "[sync]",
        keys: &[
            "watcher",
            "durability",
            "compression",
            "settle",
            "max_delete",
            "bandwidth_limit",
            "scrub",
            "preserve_days",
            "preserve_size",
        ],
    },
    TableSchema {
        title: "[activation]",
        keys: &[
            "activate_timeout",
            "flush_timeout",
            "on_peer_active",
            "on_stale",
            "split_brain",
        ],
    },
    TableSchema {
        title: "[paths]",
        keys: &["state_dir", "run_dir"],
    },
    TableSchema {
        title: "[[hook]]",
        keys: &["paths", "on", "run", "timeout", "validate"],
    },
    TableSchema {
        title: "[metrics]",
        keys: &["textfile"],
    },
];

/// The table of a title; `None` never happens, as a test reads every table of [`SCHEMA`] through these functions.
pub(super) fn schema(title: &str) -> Option<&'static TableSchema> {
    let found = SCHEMA.iter().find(|t| t.title == title);
    debug_assert!(found.is_some(), "{title} is not in SCHEMA");
    found
}

/// Names every table.
pub(super) fn tables_hint() -> String {
    let titles: Vec<_> = SCHEMA.iter().map(|t| t.title).collect();
    format!("the tables are {}", titles.join(", "))
}
