//! The scheduler with a fake engine whose tokens show every wrong, missing or overwritten key and value.

mod checks;
mod edges;
mod engine;
mod hand_off;
mod prompts;
mod random;
mod world;
