//! Waiting for the virtual IP, which the cluster manager may bring a moment after it started us.
//!
//! The kernel tells of each new address, so nothing is looked at in between.

use std::io;
use std::net::IpAddr;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::config::Config;
use crate::sys::addresses;
use crate::sys::routes::Routes;

/// Waits until the virtual IP is on this host, at most as long as `wait` in `[vip]`; tells whether it is. One that is
/// missing is logged. Without a virtual IP there is nothing to wait for.
pub async fn wait_for_vip(config: &Config) -> bool {
    let Some(vip) = config.vip else {
        return true;
    };
    let deadline = Instant::now() + vip.wait;
    match appears(vip.address, deadline).await {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!(
                "the virtual IP {} is not on this node after {:?}: let the cluster manager start it before osm-failover, or correct [vip] in {}",
                vip.address,
                vip.wait,
                config.file.display()
            );
            false
        }
        Err(e) => {
            tracing::warn!(
                "whether the virtual IP {} is on this node cannot be told: {e}",
                vip.address
            );
            false
        }
    }
}

async fn appears(address: IpAddr, deadline: Instant) -> io::Result<bool> {
    // Subscribed before the first look: an address that comes in between is told.
    let routes = Routes::watch();
    loop {
        if addresses::is_here(address)? {
            return Ok(true);
        }
        match &routes {
            Ok(routes) => match timeout_at(deadline, routes.changed()).await {
                Ok(changed) => changed?,
                Err(_) => return addresses::is_here(address),
            },
            Err(e) => {
                tracing::debug!("new addresses are not told: {e}");
                sleep_until(deadline).await;
                return addresses::is_here(address);
            }
        }
    }
}
