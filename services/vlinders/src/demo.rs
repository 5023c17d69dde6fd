//! The built-in demo model: a folder that is part of the program, so that there is always something to serve.

/// The name it is served under.
pub(crate) const NAME: &str = "vlinders-demo";

/// Its files, as a user's model folder has them.
pub(crate) const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../demo-model/config.json")),
    (
        "generation_config.json",
        include_bytes!("../demo-model/generation_config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../demo-model/model.safetensors"),
    ),
    ("tokenizer.json", include_bytes!("../demo-model/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../demo-model/tokenizer_config.json"),
    ),
];
