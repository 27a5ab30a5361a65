//! Conversation: one file per subcommand, rendering, exit codes.
