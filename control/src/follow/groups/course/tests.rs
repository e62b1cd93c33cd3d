//! What is asked when, and what is known then.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_mins(1);
const AT_ONCE: Duration = Duration::ZERO;

fn ask(since: i64, wait: Duration) -> Question {
    Question::Changes { since, wait }
}

fn change(generation: i64, changed: bool) -> Reply {
    Reply::Told(Told::Change { generation, changed })
}

fn moment(moment: Option<i64>) -> Reply {
    Reply::Told(Told::Moment(moment))
}

fn dead() -> Reply {
    Reply::Failed(AskError::Unreachable { host: "x".into(), reason: "refused".into() })
}

fn status(status: StatusCode) -> Reply {
    Reply::Failed(AskError::Status { host: "x".into(), status, text: String::new() })
}

/// What replies lead to, one after the other: a pause, at most, and the next question.
#[track_caller]
fn steps(course: &mut Course, steps: Vec<(Reply, Pause, Question)>) {
    for (number, (reply, pause, question)) in steps.into_iter().enumerate() {
        let step = course.replied(reply, AT_ONCE);
        assert_eq!((step.pause, course.question()), (pause, question), "step {number}");
    }
}

#[test]
fn a_server_that_tells_is_waited_for() {
    let mut course = Course::new(true, INTERVAL);
    assert_eq!(course.question(), ask(0, AT_ONCE));
    steps(
        &mut course,
        vec![
            (change(5, true), Pause::NONE, Question::All),
            (Reply::Read, Pause::NONE, ask(5, PATIENCE)),
            // Many cells are told the same.
            (change(7, true), Pause::up_to(SPREAD), Question::All),
            (Reply::Read, Pause::NONE, ask(7, PATIENCE)),
            // What changed was of other spaces; and it was said before its time.
            (change(9, false), Pause::about(EARLY), ask(9, PATIENCE)),
        ],
    );
    let step = course.replied(change(9, false), PATIENCE);
    assert_eq!((step.pause, course.question()), (Pause::NONE, ask(9, PATIENCE)));
    assert!(course.is_watching() && course.is_complete());
}

#[test]
fn a_server_that_is_back_with_the_same_groups_is_not_read() {
    let mut course = Course::new(true, INTERVAL);
    steps(
        &mut course,
        vec![
            (change(5, true), Pause::NONE, Question::All),
            (Reply::Read, Pause::NONE, ask(5, PATIENCE)),
            (dead(), Pause::after(1), ask(5, AT_ONCE)),
            (dead(), Pause::after(2), ask(5, AT_ONCE)),
            (change(5, false), Pause::NONE, ask(5, PATIENCE)),
            // What could not be read is told of again.
            (change(6, true), Pause::up_to(SPREAD), Question::All),
            (dead(), Pause::after(1), ask(5, AT_ONCE)),
            (change(6, true), Pause::up_to(SPREAD), Question::All),
            (Reply::Read, Pause::NONE, ask(6, PATIENCE)),
            (
                Reply::Failed(AskError::Busy { host: "x".into(), pause: PATIENCE }),
                Pause::asked(PATIENCE),
                ask(6, AT_ONCE),
            ),
        ],
    );
}

#[test]
fn a_server_that_does_not_tell_is_polled() {
    let every = Pause::about(INTERVAL);
    let mut course = Course::new(true, INTERVAL);
    steps(
        &mut course,
        vec![
            (moment(Some(5)), Pause::NONE, Question::All),
            (Reply::Read, every, ask(5, AT_ONCE)),
            (moment(Some(5)), every, ask(5, AT_ONCE)),
            // Put back.
            (moment(Some(4)), Pause::NONE, Question::All),
            (Reply::Read, every, ask(4, AT_ONCE)),
            // One that says nothing at all is read each time.
            (moment(None), Pause::NONE, Question::All),
            (Reply::Read, every, ask(0, AT_ONCE)),
            // One of ours takes its place, and the other one comes back.
            (change(8, true), Pause::NONE, Question::All),
            (Reply::Read, Pause::NONE, ask(8, PATIENCE)),
            (moment(Some(8)), every, ask(8, AT_ONCE)),
        ],
    );
    assert!(!course.is_watching());
}

#[test]
fn what_is_not_liked_is_not_asked() {
    let every = Pause::about(INTERVAL);
    let mut course = Course::new(true, INTERVAL);
    steps(
        &mut course,
        vec![
            (status(StatusCode::BAD_REQUEST), Pause::after(1), Question::LastUpdated),
            (moment(Some(1)), Pause::NONE, Question::All),
            (Reply::Read, every, Question::LastUpdated),
            (moment(Some(1)), every, Question::LastUpdated),
            // It may be another one when it is back.
            (dead(), Pause::after(1), ask(1, AT_ONCE)),
        ],
    );
    let mut course = Course::new(false, INTERVAL);
    assert_eq!(course.question(), Question::LastUpdated);
    steps(
        &mut course,
        vec![
            (moment(Some(1)), Pause::NONE, Question::All),
            (Reply::Read, every, Question::LastUpdated),
        ],
    );
}

#[test]
fn who_doubts_has_them_read_and_new_spaces_do_too() {
    let mut course = Course::new(true, INTERVAL);
    steps(
        &mut course,
        vec![
            (change(5, true), Pause::NONE, Question::All),
            (Reply::Read, Pause::NONE, ask(5, PATIENCE)),
        ],
    );
    course.spaces_came();
    assert_eq!(course.question(), Question::All);
    steps(&mut course, vec![(Reply::Read, Pause::NONE, ask(5, PATIENCE))]);
    course.doubted();
    assert!(!course.is_complete());
    assert_eq!(course.question(), ask(0, AT_ONCE));
    // Whatever the server thinks.
    steps(
        &mut course,
        vec![
            (change(5, false), Pause::NONE, Question::All),
            (Reply::Read, Pause::NONE, ask(5, PATIENCE)),
        ],
    );
}

#[test]
fn spaces_that_are_here_at_the_start_do_not_keep_a_server_from_being_waited_for() {
    let mut course = Course::new(true, INTERVAL);
    course.spaces_came();
    assert_eq!(course.question(), ask(0, AT_ONCE));
    steps(
        &mut course,
        vec![
            (change(5, true), Pause::NONE, Question::All),
            (Reply::Read, Pause::NONE, ask(5, PATIENCE)),
        ],
    );
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// The groups change; whether they are those that the cell has.
    Change(bool),
    /// The question is answered.
    Answer,
    /// It is not.
    Fail,
    Doubt,
    NewSpace,
    /// Another server takes the place of this one.
    Server(Kind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Newer,
    Older,
}

/// A server and a cell.
struct Model {
    course: Course,
    kind: Kind,
    generation: i64,
    /// What the cell would have read at each generation.
    groups: BTreeMap<i64, u32>,
    here: Option<u32>,
}

impl Model {
    fn now(&self) -> u32 {
        self.groups[&self.generation]
    }

    fn answer(&mut self) {
        let reply = match (self.course.question(), self.kind) {
            (Question::All, _) => {
                self.here = Some(self.now());
                Reply::Read
            }
            (Question::Changes { since, .. }, Kind::Ours) => {
                let same = self.groups.get(&since) == Some(&self.now());
                change(self.generation, !same)
            }
            (_, Kind::Ours | Kind::Newer) => moment(Some(self.generation)),
            (_, Kind::Older) => moment(None),
        };
        self.course.replied(reply, AT_ONCE);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Change(concerns) => {
                let groups = self.now() + u32::from(concerns);
                self.generation += 1;
                self.groups.insert(self.generation, groups);
            }
            Event::Answer => self.answer(),
            Event::Fail => {
                self.course.replied(dead(), AT_ONCE);
            }
            Event::Doubt => self.course.doubted(),
            Event::NewSpace => self.course.spaces_came(),
            Event::Server(kind) => self.kind = kind,
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any::<bool>().prop_map(Event::Change),
        8 => Just(Event::Answer),
        2 => Just(Event::Fail),
        1 => Just(Event::Doubt),
        1 => Just(Event::NewSpace),
        1 => prop::sample::select(vec![Kind::Ours, Kind::Newer, Kind::Older]).prop_map(Event::Server),
    ]
}

proptest! {
    /// Whatever happened, when a server answers again the cell has its groups after a few questions.
    #[test]
    fn the_groups_of_the_server_are_here_in_the_end(events in prop::collection::vec(event(), 0..40)) {
        let mut model = Model {
            course: Course::new(true, INTERVAL),
            kind: Kind::Ours,
            generation: 1,
            groups: BTreeMap::from([(1, 0)]),
            here: None,
        };
        for event in events {
            model.happens(event);
        }
        for _ in 0..4 {
            model.answer();
        }
        prop_assert_eq!(model.here, Some(model.now()));
    }
}
