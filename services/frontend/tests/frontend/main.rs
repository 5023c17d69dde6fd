//! The frontend over real HTTP on a loopback port, with a worker that does what each test tells it, on the real
//! in-process bus.

mod abuse;
mod admin;
mod choices;
mod ends;
mod failover;
mod functions;
mod health;
mod jwt;
mod kept_batch_keys;
mod kept_batches;
mod kept_files;
mod kept_responses;
mod keys;
mod leaving;
mod logs;
mod messages;
mod model;
mod money;
mod refusals;
mod responses;
mod scoring;
mod shapes;
mod support;
mod tap;
mod tokens;
mod tools;
