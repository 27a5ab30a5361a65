//! Settings: the one TOML file both nodes share, all defaults, and what is refused.
