//! Compiles the schema with protox, so that no `protoc` has to be installed.

use std::error::Error;
use std::path::PathBuf;

const ROOT: &str = "schema";
const DATA: &[&str] = &[
    "mz_persist_client/internal/service/service.proto",
    "persist/pubsub/v1/pubsub.proto",
];
const ADMIN: &[&str] = &["persist/pubsub/admin/v1/admin.proto"];
const BACKPLANE: &[&str] = &[
    "persist/pubsub/backplane/v1/backplane.proto",
    "persist/pubsub/backplane/v1/operators.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    compile("data", DATA, false)?;
    if std::env::var_os("CARGO_FEATURE_ADMIN").is_some() {
        compile("admin", ADMIN, true)?;
    }
    if std::env::var_os("CARGO_FEATURE_BACKPLANE").is_some() {
        compile("backplane", BACKPLANE, false)?;
    }
    Ok(())
}

/// Generates the types of one set of files, and writes the set itself, with
/// its comments, to `<name>.fds` for reflection.
fn compile(name: &str, files: &[&str], server: bool) -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files)?;
    std::fs::write(
        out.join(format!("{name}.fds")),
        compiler.encode_file_descriptor_set(),
    )?;
    // Diffs stay slices of the message they came in.
    let mut prost = tonic_prost_build::Config::new();
    prost.bytes(["."]);
    // Data-port streams are served by hand (server/src/service): their bytes
    // are passed through, not decoded and encoded again.
    tonic_prost_build::configure()
        .build_server(server)
        .build_transport(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)?;
    Ok(())
}
