//! The checked-in message code is what the `.proto` files say. `VLINDERS_RENEW=1` rewrites it.

use std::path::Path;

const HEADER: &str = "// @generated from proto/vlinders/v1 by libs/wire/tests/generated.rs; do not edit.\n\n";
const FILES: [&str; 5] = ["control", "handoff", "request", "tokens", "usage"];

fn generate() -> String {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = FILES.map(|name| format!("vlinders/v1/{name}.proto"));
    let descriptors = protox::compile(files, [proto]).expect("the .proto files compile");
    let modules = descriptors
        .file
        .into_iter()
        .map(|file| {
            (
                prost_build::Module::from_protobuf_package_name(file.package()),
                file,
            )
        })
        .collect();
    let mut config = prost_build::Config::new();
    let code = config.generate(modules).expect("messages become code");
    assert_eq!(code.len(), 1, "one package, one module");
    code.into_values()
        .fold(HEADER.to_owned(), |text, module| text + &module)
}

#[test]
fn the_checked_in_code_is_what_the_proto_files_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated.rs");
    let fresh = generate();
    if std::env::var_os("VLINDERS_RENEW").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap();
    assert!(
        checked_in == fresh,
        "libs/wire/src/generated.rs is stale: run `VLINDERS_RENEW=1 cargo test -p vlinders-wire --test generated`"
    );
}
