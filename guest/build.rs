//! Link arguments, and nothing else: the stable host target needs neither a target file nor flags.
fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    println!("cargo:rerun-if-changed=guest.ld");
    // No start-up code, no C library, no interpreter, fixed addresses.
    for arg in ["-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
    // A build id would join the PVH note in its segment.
    for arg in ["--build-id=none", "-znorelro", "-znoexecstack", "-zmax-page-size=4096"] {
        println!("cargo:rustc-link-arg-bins=-Wl,{arg}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T{dir}/guest.ld");
}
