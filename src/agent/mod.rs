//! Work: scanning, watching, sending, receiving, and the daemon that ties them together.
