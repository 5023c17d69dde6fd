//! The fixed texts a caller may read when a worker cannot serve a request. Details go to the log.

pub(crate) const DEADLINE: &str = "the deadline passed before the request could be started; try again later";
pub(crate) const TOO_LONG: &str = "the prompt and max_tokens together need more room than this server has; shorten the prompt or lower max_tokens";
pub(crate) const NOTHING_TO_DO: &str =
    "the prompt leaves no token to generate; shorten it or raise max_tokens";
pub(crate) const CONSTRAINT: &str =
    "the form asked for cannot be enforced by this server; simplify response_format or structured_outputs";
pub(crate) const NOTHING_FITS: &str = "no token fits the form asked for; simplify response_format or structured_outputs, or leave out stop_token_ids and logit_bias";
pub(crate) const NO_ROOM: &str = "the server is overloaded; try again later";
pub(crate) const NOBODY_TOOK: &str = "no worker could take the request over in time; try again later";
pub(crate) const INTERNAL: &str = "the server failed while computing this request; try again";
pub(crate) const LEAVING: &str = "the server is shutting down; try again";
pub(crate) const POISONED: &str = "the server failed repeatedly on this request; it will not be tried again";
