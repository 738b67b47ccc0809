//! The fields of a batch that apply to all its messages.
//!
//! Invariant: every event gets them. Where a message has its own value, the batch's value goes under [`BATCH`].

use super::json::{Object, Value};

/// The member of `$segment` for batch fields that the message overrides.
pub(super) const BATCH: &str = "batch";

/// The members of a batch besides its messages and its write key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchFields<'a> {
    sent_at: Option<Value<'a>>,
    context: Option<Object<'a>>,
    integrations: Option<Value<'a>>,
    rest: Object<'a>,
}

impl<'a> BatchFields<'a> {
    /// Adds a member with this JSON text. A value that cannot be represented is kept as text.
    pub fn add(&mut self, name: &str, text: &'a str) {
        let value = Value::read(text).unwrap_or(Value::String(text.into()));
        match (name, value) {
            (_, Value::Null) => {}
            ("sentAt", value) => self.sent_at = Some(value),
            ("integrations", value) => self.integrations = Some(value),
            ("context", Value::Object(context)) => self.context = Some(context),
            (name, value) => _ = self.rest.insert(name.to_owned(), value),
        }
    }

    pub(super) fn sent_at(&self) -> Option<&Value<'a>> {
        self.sent_at.as_ref()
    }

    /// The fields as JSON; `None` if there are none.
    pub fn text(&self) -> Option<String> {
        let mut all = self.rest.clone();
        for (name, value) in [("sentAt", &self.sent_at), ("integrations", &self.integrations)] {
            if let Some(value) = value {
                all.insert(name, value.clone());
            }
        }
        if let Some(context) = &self.context {
            all.insert("context", Value::Object(context.clone()));
        }
        (!all.is_empty()).then(|| serde_json::to_string(&all).unwrap_or_default())
    }

    /// Parses the output of [`Self::text`].
    pub fn read(text: &'a str) -> Self {
        let mut this = Self::default();
        if let Some(Value::Object(members)) = Value::read(text) {
            for (name, value) in members {
                match (&*name, value) {
                    ("sentAt", value) => this.sent_at = Some(value),
                    ("integrations", value) => this.integrations = Some(value),
                    ("context", Value::Object(context)) => this.context = Some(context),
                    (_, value) => _ = this.rest.insert(name, value),
                }
            }
        }
        this
    }

    /// Merges the fields into a message. Takes the context out of the message and returns it.
    pub(super) fn join(&self, message: &mut Object<'a>) -> Object<'a> {
        let mut over = self.rest.clone();
        let mut context = match message.remove("context") {
            Some(Value::Object(context)) => context,
            None | Some(Value::Null) => Object::default(),
            Some(other) => {
                message.insert("context", other);
                if let Some(of_batch) = &self.context {
                    over.insert("context", Value::Object(of_batch.clone()));
                }
                self.join_members(message, over);
                return Object::default();
            }
        };
        if let Some(of_batch) = &self.context {
            let mut differing = Object::default();
            for (name, value) in of_batch.iter() {
                match context.get(name) {
                    None => _ = context.insert(name.clone(), value.clone()),
                    Some(own) if own == value => {}
                    Some(_) => _ = differing.insert(name.clone(), value.clone()),
                }
            }
            if !differing.is_empty() {
                over.insert("context", Value::Object(differing));
            }
        }
        self.join_members(message, over);
        context
    }

    fn join_members(&self, message: &mut Object<'a>, mut over: Object<'a>) {
        for (name, value) in [("sentAt", &self.sent_at), ("integrations", &self.integrations)] {
            let Some(value) = value else { continue };
            match message.get(name) {
                None | Some(Value::Null) => _ = message.insert(name, value.clone()),
                Some(own) if own == value => {}
                Some(_) => _ = over.insert(name, value.clone()),
            }
        }
        if over.is_empty() {
            return;
        }
        if let Some(own) = message.insert(BATCH, Value::Object(over.clone())) {
            message.insert(BATCH, Value::Array(vec![own, Value::Object(over)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::object;
    use super::*;

    fn fields(members: &[(&str, &'static str)]) -> BatchFields<'static> {
        let mut fields = BatchFields::default();
        members.iter().for_each(|(name, text)| fields.add(name, text));
        fields
    }

    #[test]
    fn fields_of_the_message_take_precedence_and_nothing_is_lost() {
        let of_batch = fields(&[
            ("sentAt", "\"s\""),
            ("context", r#"{"ip": "1", "os": {"name": "x"}}"#),
            ("integrations", r#"{"All": true}"#),
            ("extra", "[1, 1e400]"),
            ("nothing", "null"),
        ]);
        let mut plain = object(r#"{"event": "e", "context": null}"#);
        assert_eq!(of_batch.join(&mut plain), object(r#"{"ip": "1", "os": {"name": "x"}}"#));
        let expected =
            r#"{"event": "e", "sentAt": "s", "integrations": {"All": true}, "batch": {"extra": "[1, 1e400]"}}"#;
        assert_eq!(plain, object(expected));
        let mut own = object(r#"{"sentAt": "own", "integrations": {"All": true}, "context": {"ip": "2"}, "batch": 1}"#);
        assert_eq!(of_batch.join(&mut own), object(r#"{"ip": "2", "os": {"name": "x"}}"#));
        let expected = r#"{"sentAt": "own", "integrations": {"All": true},
            "batch": [1, {"extra": "[1, 1e400]", "context": {"ip": "1"}, "sentAt": "s"}]}"#;
        assert_eq!(own, object(expected));
        let mut odd = object(r#"{"context": "text"}"#);
        assert!(fields(&[("context", r#"{"ip": "1"}"#)]).join(&mut odd).is_empty());
        assert_eq!(odd, object(r#"{"context": "text", "batch": {"context": {"ip": "1"}}}"#));
        let mut odd = object("{}");
        assert!(fields(&[("context", "7")]).join(&mut odd).is_empty());
        assert_eq!(odd, object(r#"{"batch": {"context": 7}}"#));
        let mut untouched = object(r#"{"a": 1}"#);
        assert!(BatchFields::default().join(&mut untouched).is_empty());
        assert_eq!((untouched, BatchFields::default().text()), (object(r#"{"a": 1}"#), None));
    }

    #[test]
    fn text_round_trips() {
        let all = fields(&[("sentAt", "1"), ("context", r#"{"a": 2}"#), ("integrations", "3"), ("extra", "4")]);
        let text = all.text().unwrap();
        assert_eq!(BatchFields::read(&text), all);
        assert_eq!(BatchFields::read("["), BatchFields::default());
    }
}
