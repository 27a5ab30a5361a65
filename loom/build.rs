//! Has the code under test take loom's mutex and atomics in place of the system's.

fn main() {
    println!("cargo::rustc-cfg=loom_model");
}
