//! What is asked when, and what answers mean.

mod answers;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use sarcenet_server::policy::{Policy, Protocol, TagNumber, TaggedPolicy};

use super::answer::{Answer, List};
use super::course::{Course, PATIENCE, Problem, Question, Reply, Step};
use super::set::{Policies, PoliciesError};
use crate::follow::ask::AskError;
use crate::follow::pause::Pause;

const INTERVAL: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::ZERO;

/// From app number `from` to app number `to`, on one port. The tag of an app is its number.
fn policy(from: u32, to: u32, port: u32) -> TaggedPolicy {
    TaggedPolicy {
        policy: Policy {
            source: format!("app-{from}"),
            destination: format!("app-{to}"),
            protocol: Protocol::Tcp,
            first_port: port,
            last_port: port,
        },
        source_tag: TagNumber(from),
        destination_tag: TagNumber(to),
    }
}

fn list(policies: &[(u32, u32, u32)]) -> List {
    let policies = policies.iter().map(|&(from, to, port)| policy(from, to, port)).collect();
    List { policies, left_out: 0 }
}

fn known(policies: &[(u32, u32, u32)]) -> Arc<Policies> {
    Arc::new(Policies::new(list(policies)).unwrap())
}

fn everything(generation: i64, policies: &[(u32, u32, u32)]) -> Reply {
    Reply::Policies(Answer::Everything { generation, list: list(policies) })
}

fn changes(
    since: i64,
    generation: i64,
    added: &[(u32, u32, u32)],
    removed: &[(u32, u32, u32)],
) -> Reply {
    let (added, removed) = (list(added), list(removed));
    Reply::Policies(Answer::Changes { generation, since, added, removed })
}

fn plain(policies: &[(u32, u32, u32)]) -> Reply {
    Reply::Policies(Answer::Plain(list(policies)))
}

fn refused(status: StatusCode) -> Reply {
    Reply::Failed(AskError::Status { host: "x".into(), status, text: String::new() })
}

fn dead() -> Reply {
    Reply::Failed(AskError::Unreachable { host: "x".into(), reason: "refused".into() })
}

fn ask(since: i64, wait: Duration) -> Question {
    Question::Changes { since, wait }
}

/// A course that watches and has these policies.
fn watching(generation: i64, policies: &[(u32, u32, u32)]) -> Course {
    let mut course = Course::new(true, INTERVAL, 0, Arc::default());
    let step = course.replied(everything(generation, policies), AT_ONCE);
    assert!(step.problem.is_none());
    course
}

/// A course that polls and has these policies of that moment.
fn polling(moment: i64, policies: &[(u32, u32, u32)]) -> Course {
    let mut course = Course::new(false, INTERVAL, 0, Arc::default());
    assert_eq!(course.question(), Question::LastUpdated);
    assert_eq!(course.replied(Reply::LastUpdated(moment), AT_ONCE).pause, Pause::NONE);
    assert_eq!(course.question(), Question::All);
    assert!(course.replied(plain(policies), AT_ONCE).problem.is_none());
    course
}

/// The problem's kind, whether there is news, and the pause.
fn outcome(step: &Step) -> (Option<&'static str>, bool, Pause) {
    (step.problem.as_ref().map(|problem| problem.kind().name()), step.news, step.pause)
}

#[test]
fn a_server_is_watched_from_everything_on() {
    let mut course = Course::new(true, INTERVAL, 0, Arc::default());
    assert_eq!(course.question(), ask(0, AT_ONCE));
    assert!(!course.is_complete());
    assert!(course.replied(everything(7, &[(1, 2, 80)]), AT_ONCE).news);
    assert_eq!(course.question(), ask(7, PATIENCE));
    assert!(course.is_complete());

    assert!(course.replied(changes(7, 9, &[(1, 3, 80)], &[(1, 2, 80)]), AT_ONCE).news);
    assert_eq!(course.question(), ask(9, PATIENCE));
    assert_eq!((course.generation(), course.changed_at()), (9, Some(9)));
    assert_eq!(*course.policies(), known(&[(1, 3, 80)]));

    // Changes that cancel each other out.
    let step = course.replied(changes(9, 12, &[], &[]), PATIENCE);
    assert_eq!(outcome(&step), (None, false, Pause::NONE));
    assert_eq!(course.question(), ask(12, PATIENCE));
}

#[test]
fn what_is_on_the_disk_is_the_beginning() {
    let mut course = Course::new(true, INTERVAL, 7, known(&[(1, 2, 80)]));
    assert_eq!(course.question(), ask(7, AT_ONCE), "whether that is so must be said soon");
    assert!(!course.replied(changes(7, 7, &[], &[]), AT_ONCE).news);
    assert_eq!(course.question(), ask(7, PATIENCE));
    assert_eq!(*course.policies(), known(&[(1, 2, 80)]));
}

#[test]
fn what_does_not_fit_is_not_used_and_everything_asked_for() {
    let table: [(Reply, &str); 6] = [
        (changes(6, 9, &[(1, 3, 80)], &[]), "another generation"),
        (changes(7, 9, &[], &[(1, 3, 80)]), "a removed one that is not there"),
        (changes(7, 9, &[(1, 2, 80)], &[]), "an added one that is there"),
        (changes(7, 9, &[(1, 2, 81), (1, 2, 81)], &[]), "an added one that comes twice"),
        (changes(7, 9, &[(1, 2, 81)], &[(1, 2, 80), (1, 2, 80)]), "a removed one that comes twice"),
        (
            Reply::Policies(Answer::Changes {
                generation: 9,
                since: 7,
                added: List {
                    policies: vec![TaggedPolicy { source_tag: TagNumber(9), ..policy(1, 4, 80) }],
                    left_out: 0,
                },
                removed: List::default(),
            }),
            "an app with another tag",
        ),
    ];
    for (reply, what) in table {
        let mut course = watching(7, &[(1, 2, 80)]);
        let step = course.replied(reply, AT_ONCE);
        assert_eq!(outcome(&step), (Some("misfit"), false, Pause::after(1)), "{what}");
        assert_eq!(*course.policies(), known(&[(1, 2, 80)]), "{what}");
        assert_eq!(course.question(), ask(0, AT_ONCE), "{what}");
        assert!(!course.is_complete(), "{what}");
        assert!(course.replied(everything(9, &[(1, 3, 80)]), AT_ONCE).news);
        assert_eq!(course.question(), ask(9, PATIENCE));
    }
    // A difference for one who has nothing.
    let mut course = Course::new(true, INTERVAL, 0, Arc::default());
    let step = course.replied(changes(0, 9, &[(1, 2, 80)], &[]), AT_ONCE);
    assert_eq!(outcome(&step), (Some("misfit"), false, Pause::after(1)));
    assert!(course.policies().is_empty());
}

#[test]
fn failures_change_nothing_and_make_pauses_grow() {
    let mut course = watching(7, &[(1, 2, 80)]);
    for failures in 1..10 {
        let step = course.replied(dead(), AT_ONCE);
        assert_eq!(outcome(&step), (Some("unreachable"), false, Pause::after(failures)));
        assert_eq!(course.question(), ask(7, AT_ONCE));
        assert_eq!(*course.policies(), known(&[(1, 2, 80)]));
    }
    let step = course.replied(changes(7, 7, &[], &[]), AT_ONCE);
    assert_eq!(outcome(&step), (None, false, Pause::NONE));
    assert_eq!(course.replied(dead(), AT_ONCE).pause, Pause::after(1), "they began anew");

    let minute = Duration::from_mins(1);
    let busy = Reply::Failed(AskError::Busy { host: "x".into(), pause: minute });
    assert_eq!(
        outcome(&course.replied(busy, AT_ONCE)),
        (Some("busy"), false, Pause::asked(minute))
    );
}

#[test]
fn a_server_that_has_nothing_to_say_is_not_asked_at_once() {
    for (elapsed, pause) in [
        (AT_ONCE, Pause::about(INTERVAL)),
        (PATIENCE / 4, Pause::about(INTERVAL)),
        (PATIENCE / 2, Pause::NONE),
        (PATIENCE, Pause::NONE),
    ] {
        for reply in [changes(7, 7, &[], &[]), everything(8, &[(1, 2, 80)])] {
            let mut course = watching(7, &[(1, 2, 80)]);
            assert_eq!(outcome(&course.replied(reply, elapsed)), (None, false, pause));
        }
    }
}

#[test]
fn a_server_that_does_not_watch_is_polled() {
    let mut course = Course::new(true, INTERVAL, 0, Arc::default());
    let step = course.replied(plain(&[(1, 2, 80)]), AT_ONCE);
    assert_eq!(outcome(&step), (None, true, Pause::about(INTERVAL)));
    assert!(!course.is_watching());
    assert_eq!((course.generation(), course.changed_at()), (0, None));
    assert_eq!(course.question(), Question::LastUpdated);

    // One that does not like to be asked that.
    let mut course = watching(7, &[(1, 2, 80)]);
    let step = course.replied(refused(StatusCode::BAD_REQUEST), AT_ONCE);
    assert_eq!(outcome(&step), (Some("status"), false, Pause::after(1)));
    assert_eq!(course.question(), Question::All);
    assert_eq!(*course.policies(), known(&[(1, 2, 80)]));
    // Other failures are just failures.
    let mut course = watching(7, &[]);
    course.replied(refused(StatusCode::INTERNAL_SERVER_ERROR), AT_ONCE);
    assert!(course.is_watching());
}

#[test]
fn what_a_server_says_of_its_last_change_is_remembered_when_the_policies_are_here() {
    let mut course = polling(50, &[(1, 2, 80)]);
    assert_eq!(course.question(), Question::LastUpdated);
    assert_eq!(course.changed_at(), Some(50));
    let step = course.replied(Reply::LastUpdated(50), AT_ONCE);
    assert_eq!(outcome(&step), (None, false, Pause::about(INTERVAL)));
    assert_eq!(course.question(), Question::LastUpdated);

    // It has moved, but the policies do not come.
    assert_eq!(course.replied(Reply::LastUpdated(60), AT_ONCE).pause, Pause::NONE);
    for failures in 1..4 {
        assert_eq!(course.question(), Question::All);
        assert_eq!(course.replied(dead(), AT_ONCE).pause, Pause::after(failures));
        assert_eq!(course.changed_at(), Some(50));
    }
    assert!(course.replied(plain(&[(1, 3, 80)]), AT_ONCE).news);
    assert_eq!((course.changed_at(), course.question()), (Some(60), Question::LastUpdated));

    // A database that was put back.
    assert_eq!(course.replied(Reply::LastUpdated(50), AT_ONCE).pause, Pause::NONE);
    assert_eq!(course.question(), Question::All);
}

#[test]
fn policies_are_polled_also_when_the_server_does_not_say_when_they_changed() {
    let mut course = polling(50, &[(1, 2, 80)]);
    for port in 81..85 {
        assert_eq!(course.question(), Question::LastUpdated);
        let step = course.replied(refused(StatusCode::NOT_FOUND), AT_ONCE);
        assert_eq!(outcome(&step), (Some("status"), false, Pause::after(1)));
        assert_eq!(course.question(), Question::All);
        let step = course.replied(plain(&[(1, 2, port)]), AT_ONCE);
        assert_eq!(outcome(&step), (None, true, Pause::about(INTERVAL)));
    }
}

#[test]
fn other_apps_and_doubts_have_everything_asked_for() {
    let mut course = polling(50, &[(1, 2, 80)]);
    course.apps_changed();
    assert_eq!(course.question(), Question::All);
    assert!(course.replied(plain(&[(1, 2, 80), (3, 4, 80)]), AT_ONCE).news);
    assert_eq!((course.question(), course.changed_at()), (Question::LastUpdated, Some(50)));
    course.doubted();
    assert_eq!(course.question(), Question::All);

    let mut course = watching(7, &[(1, 2, 80)]);
    course.apps_changed();
    assert_eq!(course.question(), ask(7, PATIENCE), "all policies are here");
    course.doubted();
    assert_eq!(course.question(), ask(7, AT_ONCE));
}

#[test]
fn a_server_of_ours_that_takes_the_place_of_another_is_watched() {
    let mut course = Course::new(true, INTERVAL, 0, Arc::default());
    course.replied(plain(&[(1, 2, 80)]), AT_ONCE);
    course.replied(Reply::LastUpdated(60), AT_ONCE);
    assert_eq!(course.question(), Question::All);
    let step = course.replied(everything(61, &[(1, 2, 80)]), AT_ONCE);
    assert_eq!(outcome(&step), (None, false, Pause::NONE));
    assert_eq!(course.question(), ask(0, PATIENCE), "it has said only what concerns the apps here");
    course.replied(everything(61, &[(1, 2, 80), (3, 4, 80)]), AT_ONCE);
    assert_eq!(course.policies().len(), 2);

    // Who does not want to watch does not.
    let mut course = polling(50, &[]);
    course.doubted();
    course.replied(everything(61, &[(1, 2, 80)]), AT_ONCE);
    assert_eq!((course.question(), course.policies().len()), (Question::LastUpdated, 1));
}

#[test]
fn answers_to_other_questions_are_none() {
    for reply in [plain(&[]), everything(9, &[]), changes(7, 9, &[], &[])] {
        let mut course = polling(50, &[(1, 2, 80)]);
        assert_eq!(
            outcome(&course.replied(reply, AT_ONCE)),
            (Some("garbage"), false, Pause::after(1))
        );
        assert_eq!(*course.policies(), known(&[(1, 2, 80)]));
    }
    let mut course = watching(7, &[]);
    let step = course.replied(Reply::LastUpdated(9), AT_ONCE);
    assert!(matches!(step.problem, Some(Problem::Unasked)));
}

#[test]
fn policies_that_contradict_each_other_are_not_used() {
    let two_tags = TaggedPolicy { source_tag: TagNumber(9), ..policy(1, 3, 80) };
    let two_apps = TaggedPolicy { destination_tag: TagNumber(1), ..policy(1, 3, 80) };
    for (bad, text) in [
        (two_tags, "app app-1 has the tags 0001 and 0009"),
        (two_apps, "tag 0001 belongs to app app-1 and to app app-3"),
    ] {
        let list = List { policies: vec![policy(1, 2, 80), bad], left_out: 0 };
        assert_eq!(Policies::new(list.clone()).unwrap_err().to_string(), text);
        for answer in
            [Answer::Plain(list.clone()), Answer::Everything { generation: 9, list: list.clone() }]
        {
            let mut course = watching(7, &[(5, 6, 80)]);
            let step = course.replied(Reply::Policies(answer), AT_ONCE);
            assert_eq!(outcome(&step).0, Some("garbage"));
            assert_eq!(*course.policies(), known(&[(5, 6, 80)]));
            assert_eq!(course.question(), ask(7, AT_ONCE));
        }
    }
    assert_eq!(
        known(&[(1, 2, 80)]).changed(List::default(), &list(&[(1, 2, 81)])),
        Err(PoliciesError::NotThere("app-1 to app-2 tcp 81-81".into()))
    );
}
