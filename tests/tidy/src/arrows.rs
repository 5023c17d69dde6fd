//! Who may depend on whom.

use std::collections::BTreeMap;

use crate::known::{
    ASYNCHRONOUS, FLOORS, HIGHEST_SYNCHRONOUS_FLOOR, MUST_NOT_KNOW, SAME_FLOOR, SOLE_OWNERS, STANDALONE,
    TESTS_FLOOR, UPWARD_IN_TESTS,
};
use crate::workspace::Member;

/// Everything that is wrong with the arrows between these crates.
#[must_use]
pub fn faults(members: &[Member]) -> Vec<String> {
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let mut faults = Vec::new();
    for (name, _) in FLOORS {
        if !members.iter().any(|member| member.name == *name) {
            faults.push(format!(
                "{name} is on the map in tests/tidy/src/known.rs and not in the workspace"
            ));
        }
    }
    for member in members {
        let Some(floor) = floors.get(member.name.as_str()).copied() else {
            faults.push(format!(
                "{} has no floor: put it on the map in tests/tidy/src/known.rs",
                member.name
            ));
            continue;
        };
        if !member.follows_lints {
            faults.push(format!("{} does not follow the workspace's lints", member.name));
        }
        for dependency in &member.dependencies {
            faults.extend(arrow_fault(&floors, &member.name, floor, dependency));
            faults.extend(knowledge_fault(&member.name, floor, dependency));
        }
        for dependency in &member.test_dependencies {
            let above = floors
                .get(dependency.as_str())
                .is_some_and(|other| *other > floor);
            if above && !lists(UPWARD_IN_TESTS, &member.name, dependency) {
                faults.push(format!("the tests of {} point up to {dependency}", member.name));
            }
        }
    }
    faults.extend(unused_exceptions(members));
    faults
}

/// Our own crates: down, or along a listed arrow of the same floor.
fn arrow_fault(floors: &BTreeMap<&str, u8>, name: &str, floor: u8, dependency: &str) -> Option<String> {
    let other = *floors.get(dependency)?;
    if other > floor {
        return Some(format!(
            "{name} (floor {floor}) points up to {dependency} (floor {other})"
        ));
    }
    if STANDALONE.contains(&name) {
        return Some(format!("{name} stands alone and may not know {dependency}"));
    }
    if other == floor && !lists(SAME_FLOOR, name, dependency) {
        return Some(format!(
            "{name} may not know {dependency} beside it on floor {floor}"
        ));
    }
    None
}

/// What lies below and is not for this crate all the same, and outside crates with an owner.
fn knowledge_fault(name: &str, floor: u8, dependency: &str) -> Option<String> {
    if lists(MUST_NOT_KNOW, name, dependency) {
        return Some(format!("{name} must not know {dependency}"));
    }
    let owned = SOLE_OWNERS
        .iter()
        .find(|(outside, owner)| *outside == dependency && *owner != name);
    if let Some((_, owner)) = owned
        && floor < TESTS_FLOOR
    {
        return Some(format!(
            "{name} depends on {dependency}, which belongs to {owner}"
        ));
    }
    if floor <= HIGHEST_SYNCHRONOUS_FLOOR && ASYNCHRONOUS.contains(&dependency) {
        return Some(format!(
            "{name} (floor {floor}) depends on {dependency}: nothing waits down there"
        ));
    }
    None
}

/// Permissions nobody uses any more: they would let an old arrow come back unseen.
fn unused_exceptions(members: &[Member]) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, allowed) in SAME_FLOOR {
        for dependency in *allowed {
            let used = members
                .iter()
                .any(|member| member.name == *name && member.dependencies.iter().any(|it| it == dependency));
            if !used {
                faults.push(format!(
                    "{name} no longer depends on {dependency}: take it off the list of exceptions"
                ));
            }
        }
    }
    faults
}

fn lists(table: &[(&str, &[&str])], name: &str, dependency: &str) -> bool {
    table
        .iter()
        .any(|(known, entries)| *known == name && entries.contains(&dependency))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The workspace as the map has it: every crate, with the arrows of the exceptions only.
    fn tidy_workspace() -> Vec<Member> {
        let allowed = |name: &str| {
            let entry = SAME_FLOOR.iter().find(|(known, _)| *known == name);
            entry.map_or(&[][..], |(_, dependencies)| *dependencies)
        };
        FLOORS
            .iter()
            .map(|(name, _)| Member {
                name: (*name).to_owned(),
                dependencies: allowed(name).iter().map(|it| (*it).to_owned()).collect(),
                follows_lints: true,
                ..Member::default()
            })
            .collect()
    }

    /// The faults after one more arrow.
    fn faults_with(from: &str, to: &str) -> Vec<String> {
        let mut members = tidy_workspace();
        let member = members
            .iter_mut()
            .find(|member| member.name == from)
            .expect("on the map");
        member.dependencies.push(to.to_owned());
        faults(&members)
    }

    fn faults_of_tests_with(from: &str, to: &str) -> Vec<String> {
        let mut members = tidy_workspace();
        let member = members
            .iter_mut()
            .find(|member| member.name == from)
            .expect("on the map");
        member.test_dependencies.push(to.to_owned());
        faults(&members)
    }

    #[test]
    fn a_tidy_workspace_has_no_faults() {
        assert_eq!(faults(&tidy_workspace()), [""; 0]);
    }

    #[test]
    fn every_arrow_that_points_up_is_a_fault() {
        for (from, floor) in FLOORS {
            for (to, other) in FLOORS {
                if other > floor {
                    let expected = format!("{from} (floor {floor}) points up to {to} (floor {other})");
                    assert!(faults_with(from, to).contains(&expected), "{expected}");
                }
            }
        }
    }

    #[test]
    fn a_turned_arrow_is_a_fault() {
        for (from, dependencies) in SAME_FLOOR {
            for to in *dependencies {
                let faults = faults_with(to, from);
                assert_eq!(faults.len(), 1, "{to} -> {from}: {faults:?}");
                assert!(
                    faults[0].starts_with(&format!("{to} may not know {from} beside it")),
                    "{faults:?}"
                );
            }
        }
    }

    #[test]
    fn services_do_not_know_each_other() {
        assert_eq!(
            faults_with("vlinders-frontend", "vlinders-usage"),
            ["vlinders-frontend may not know vlinders-usage beside it on floor 4"]
        );
    }

    #[test]
    fn what_stands_alone_knows_nobody() {
        for to in ["vlinders-types", "vlinders-openai-api", "vlinders-tidy"] {
            assert_eq!(
                faults_with("vlinders-loadtest", to),
                [format!("vlinders-loadtest stands alone and may not know {to}")]
            );
        }
        assert!(faults_with("vlinders-loadtest", "tokio").is_empty());
    }

    #[test]
    fn the_scheduler_does_not_know_the_engine() {
        assert_eq!(faults_with("vlinders-scheduler", "vlinders-engine").len(), 1);
        assert_eq!(
            faults_with("vlinders-engine", "vlinders-scheduler"),
            ["vlinders-engine must not know vlinders-scheduler"]
        );
    }

    #[test]
    fn what_a_crate_must_not_know_is_a_fault_although_it_lies_below() {
        for (name, forbidden) in MUST_NOT_KNOW {
            for dependency in *forbidden {
                assert_eq!(
                    faults_with(name, dependency),
                    [format!("{name} must not know {dependency}")]
                );
            }
        }
    }

    #[test]
    fn outside_crates_with_an_owner_are_used_by_nobody_else() {
        for (outside, owner) in SOLE_OWNERS {
            assert!(faults_with(owner, outside).is_empty());
            let expected = format!("vlinders-worker depends on {outside}, which belongs to {owner}");
            assert_eq!(faults_with("vlinders-worker", outside), [expected]);
            assert!(faults_with("vlinders-system-tests", outside).is_empty());
        }
    }

    #[test]
    fn nothing_waits_on_the_lower_floors() {
        assert_eq!(
            faults_with("vlinders-scheduler", "tokio"),
            ["vlinders-scheduler (floor 1) depends on tokio: nothing waits down there"]
        );
        assert!(faults_with("vlinders-worker", "tokio").is_empty());
    }

    #[test]
    fn a_crate_that_is_not_on_the_map_is_a_fault_and_so_is_one_that_is_gone() {
        let mut members = tidy_workspace();
        members.push(Member {
            name: "vlinders-utils".to_owned(),
            ..Member::default()
        });
        members.retain(|member| member.name != "vlinders-tidy");
        let faults = faults(&members);
        assert_eq!(faults.len(), 2);
        assert!(faults[0].starts_with("vlinders-tidy is on the map"));
        assert!(faults[1].starts_with("vlinders-utils has no floor"));
    }

    #[test]
    fn tests_may_use_their_own_floor_and_nothing_above() {
        assert!(faults_of_tests_with("vlinders-model", "vlinders-kernel-cpu").is_empty());
        assert_eq!(
            faults_of_tests_with("vlinders-scheduler", "vlinders-engine"),
            ["the tests of vlinders-scheduler point up to vlinders-engine"]
        );
    }

    #[test]
    fn an_exception_nobody_uses_is_a_fault() {
        let mut members = tidy_workspace();
        for member in &mut members {
            member
                .dependencies
                .retain(|dependency| dependency != "vlinders-model");
        }
        assert_eq!(
            faults(&members),
            ["vlinders-engine no longer depends on vlinders-model: take it off the list of exceptions"]
        );
    }

    #[test]
    fn a_crate_without_the_lints_is_a_fault() {
        let mut members = tidy_workspace();
        members[0].follows_lints = false;
        assert_eq!(
            faults(&members),
            ["vlinders-types does not follow the workspace's lints"]
        );
    }
}
