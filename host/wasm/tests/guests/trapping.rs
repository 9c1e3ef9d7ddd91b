//! Traps and broken limits: in words, with the guest's stack, and without lasting harm.

use tidemill_model::fault::FaultKind;
use tidemill_model::limits::TEXT_BYTES_MAX;
use tidemill_model::logic::LogicError;

use crate::support::{context, evil, numbers, open};

#[test]
fn traps_say_what_was_wrong_and_where() {
    for (mode, expected, frame) in [
        ("loop", "ran longer than 500 ms", "evil::ruin::forever"),
        ("grow", "wanted more than 16 MiB of memory", "evil::ruin::before"),
        ("recurse", "endless recursion", "evil::ruin::recurse"),
        ("abort", "aborted (wasm `unreachable`), without a message", ""),
        ("huge", "returned more than 1 MiB from one call", ""),
        ("panic", "panicked at src/ruin.rs:", "evil::ruin::before"),
        ("panic", "the 2 rows are cursed", "src/ruin.rs:"),
    ] {
        let mut logic = open("map", &[("do", mode)]).unwrap();
        match logic.process(&numbers(&[1, 2])) {
            Err(LogicError::Trap(text)) => {
                assert!(text.contains(expected), "{mode}: {text}");
                assert!(text.contains(frame), "{mode}: {text}");
                assert!(!text.contains("core::panicking"), "{mode}: {text}");
            }
            other => panic!("{mode}: {other:?}"),
        }
    }
}

#[test]
fn after_a_trap_a_fresh_instance_goes_on() {
    let mut logic = open("map", &[("do", "panic-on-negative")]).unwrap();
    for (rows, traps) in [([1, 2], false), ([1, -2], true), ([3, -4], true), ([5, 6], false)] {
        let result = logic.process(&numbers(&rows));
        assert_eq!(matches!(result, Err(LogicError::Trap(_))), traps, "{rows:?}: {result:?}");
        assert_eq!(result.is_ok(), !traps);
    }
}

#[test]
fn errors_of_a_call_are_fatal_in_the_guests_words() {
    for (mode, expected) in [("fatal", "the ink has run out"), ("config", "too late to say")] {
        match open("map", &[("do", mode)]).unwrap().process(&numbers(&[1])) {
            Err(LogicError::Fatal(text)) => assert_eq!(text, expected),
            other => panic!("{mode}: {other:?}"),
        }
    }
}

#[test]
fn opening_fails_in_the_guests_words() {
    for (how, kind, expected) in [
        ("config", FaultKind::Config, "`threshold` must not be negative"),
        ("fatal", FaultKind::Component, "the moon is full"),
        ("panic", FaultKind::Component, "can't be opened: panicked at src/lib.rs:"),
        ("loop", FaultKind::Component, "can't be opened: ran longer than 500 ms"),
    ] {
        let fault = open("map", &[("open", how)]).err().unwrap();
        assert!(fault.message.starts_with(expected), "{fault}");
        assert_eq!((fault.kind, fault.operator.as_str(), fault.worker), (kind, "node", Some(0)));
    }
    assert_eq!(open("map", &[("open", "long")]).err().unwrap().message.len(), TEXT_BYTES_MAX);
}

#[test]
fn opening_tells_the_guest_who_it_is() {
    use arrow::datatypes::{DataType, Field, Schema};
    let item = Field::new("item", DataType::Utf8, true);
    let mut context = context("keyed", &[("open", "context"), ("limit", "3")]);
    context.key_schema = Some(std::sync::Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("tags", DataType::List(item.into()), true),
    ])));
    (context.worker, context.workers) = (2, 4);
    let fault = evil().factory("keyed").unwrap().open(&context).err().unwrap();
    let expected = r#"keyed node 2/4 [id:int64:0,tags:list:1,item:utf8:0] [("open", "context"), ("limit", "3")]"#;
    assert_eq!(fault.message, expected);
}
