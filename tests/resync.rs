//! Two nodes that were apart meet again: the newer data win, what would be lost is preserved first, and where nobody can
//! tell which data are newer nothing is changed.

mod common;

#[path = "resync/apart.rs"]
mod apart;
#[path = "resync/crossing.rs"]
mod crossing;
#[path = "resync/given.rs"]
mod given;
#[path = "resync/lacked.rs"]
mod lacked;
#[path = "resync/large.rs"]
mod large;
#[path = "resync/names.rs"]
mod names;
#[path = "resync/newindex.rs"]
mod newindex;
#[path = "resync/returned.rs"]
mod returned;
#[path = "resync/slow.rs"]
mod slow;
#[path = "resync/strays.rs"]
mod strays;
#[path = "resync/unread.rs"]
mod unread;
#[path = "resync/whole.rs"]
mod whole;
