//! What `syncd serve` may do once it is confined, and what it may not, even where it was broken into: the real confinement
//! is put around a process that tries to get out by every way we know of, and around a real `syncd serve`.

mod common;

#[path = "confine/apart.rs"]
mod apart;
#[path = "confine/devices.rs"]
mod devices;
#[path = "confine/honest.rs"]
mod honest;
#[path = "confine/live.rs"]
mod live;
#[path = "confine/older.rs"]
mod older;
#[path = "confine/ways_out.rs"]
mod ways_out;
