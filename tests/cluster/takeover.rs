//! What is measured of a takeover.

/// How long a takeover took, in seconds from the fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Takeover {
    /// Until the virtual IP was there.
    pub vip: f64,
    /// Until the service started.
    pub service: f64,
}
