//! The pits that servers of this API are known to fall into, and the tests that would notice. The list is kept true by looking
//! for each test in the tree.

use std::path::Path;

use anyhow::ensure;
use vlinders_system_tests::repository;

use crate::Checked;

/// What happened elsewhere, and the tests that claim it does not happen here.
const PITS: [(&str, &[&str]); 18] = [
    (
        "a constraint is ignored and the answer is 200",
        &[
            "what_cannot_be_honoured_is_refused_by_name",
            "every_parameter_that_is_not_offered_is_refused_by_its_name",
            "every_parameter_has_its_effect_and_is_refused_by_name",
        ],
    ),
    (
        "one bad request ends the engine",
        &[
            "what_cannot_be_served_is_answered_and_nothing_else_suffers",
            "what_cannot_be_told_is_refused_by_name_and_hurts_nobody",
            "a_billion_choices_are_refused",
        ],
    ),
    (
        "a wrong status",
        &["every_status_of_the_api_is_answered_in_its_shape"],
    ),
    (
        "pieces of calls are malformed or doubled when a step has several tokens",
        &[
            "any_pieces_of_a_text_give_what_the_whole_gives",
            "calls_are_streamed_as_a_beginning_and_pieces_of_arguments",
        ],
    ),
    (
        "finish_reason is missing or wrong",
        &[
            "a_call_cut_at_its_limit_says_so",
            "an_answer_cut_short_says_length_and_other_wishes_are_honoured",
        ],
    ),
    (
        "usage or its details are missing",
        &[
            "a_whole_chat_answer_is_written_as_clients_expect",
            "later_choices_find_the_prompt_computed",
        ],
    ),
    (
        "usage is lost or invented when a client leaves, or an explicit zero is read as missing",
        &[
            "two_hundred_clients_of_which_some_leave_are_all_answered_or_cancelled_and_billed_once",
            "an_echoed_prompt_without_an_answer_is_told_with_its_logprobs",
            "completions_count_their_logprobs",
        ],
    ),
    (
        "a client that leaves does not stop the generation",
        &[
            "a_client_that_leaves_a_stream_cancels_its_request",
            "a_client_that_leaves_before_the_first_token_cancels_its_request",
        ],
    ),
    (
        "stop texts leak, or no longer work when tokens and text are handled apart",
        &[
            "any_cut_of_the_text_finds_what_one_search_finds",
            "text_and_stop_texts_have_no_seam_wherever_an_attempt_is_cut",
        ],
    ),
    (
        "a character is split between tokens",
        &[
            "bytes_in_any_cut_give_the_text_of_the_whole",
            "an_incomplete_character_is_held_back_and_replaced_at_the_end",
        ],
    ),
    (
        "log-probabilities and their offsets are wrong beside an echo",
        &[
            "an_echoed_prompt_is_scored_as_evaluations_ask_for_it",
            "a_given_token_is_as_likely_as_a_drawn_one",
            "completions_echo_and_count_their_logprobs",
        ],
    ),
    (
        "a form is escaped through reasoning, or by an empty schema",
        &[
            "an_answer_of_a_given_form_holds_no_thoughts",
            "every_spelling_is_enforced_across_a_hand_off",
        ],
    ),
    (
        "reasoning leaks into the answer",
        &[
            "reasoning_is_told_apart_counted_and_left_out_on_request",
            "any_cut_of_the_text_parts_it_alike",
        ],
    ),
    (
        "a stream never closes after an error",
        &[
            "faults_of_workers_have_their_status_streamed_or_not",
            "every_status_of_the_api_is_answered_in_its_shape",
        ],
    ),
    (
        "the beginning token comes twice, another name is told than was asked for, templates fail on several turns of calls",
        &[
            "the_beginning_token_is_never_doubled",
            "a_whole_answer_is_told_in_blocks",
            "every_template_and_case_renders_as_python_renders_it",
        ],
    ),
    (
        "the end of a window moves with every write",
        &[
            "refused_requests_do_not_make_the_wait_longer",
            "two_frontends_let_in_what_one_limit_allows_also_after_redis_was_lost",
        ],
    ),
    ("healthy without workers", &["without_workers_nothing_is_ready"]),
    (
        "a whole answer still ships every piece",
        &["a_tenant_hears_its_own_answers_and_nothing_else"],
    ),
];

/// All names of functions in the sources below this folder.
fn functions(folder: &Path, found: &mut Vec<String>) -> Checked {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            functions(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let names = text.lines().filter_map(|line| {
                let (_, rest) = line.split_once("fn ")?;
                rest.split(['(', '<']).next().map(str::to_owned)
            });
            found.extend(names);
        }
    }
    Ok(())
}

#[test]
fn every_pit_has_tests_that_are_there() -> Checked {
    let mut found = Vec::new();
    for folder in ["libs", "services", "tests"] {
        functions(&repository().join(folder), &mut found)?;
    }
    for (pit, tests) in PITS {
        ensure!(!tests.is_empty(), "{pit}: nothing would notice");
        for test in tests {
            ensure!(
                found.iter().any(|name| name == test),
                "{pit}: there is no test {test}"
            );
        }
    }
    Ok(())
}
