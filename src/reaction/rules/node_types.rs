//! The types of the nodes that a path can find, known before any event is there.

use super::filters::Kinds;
use crate::base::nearest::suggestion;
use crate::event::describe::{ViewType, payload};

/// What stands at a place of the view, if that is known.
pub(in crate::reaction) type Place = Option<ViewType>;

/// What can stand at the nodes that a path finds.
#[derive(Clone, Debug, Default)]
pub(in crate::reaction) struct Places {
    pub(in crate::reaction) known: Vec<ViewType>,
    /// Anything else, too: what is in `properties` is the app's own.
    pub(in crate::reaction) open: bool,
    /// Whether an event may have no such node.
    pub(in crate::reaction) optional: bool,
}

impl Places {
    pub(in crate::reaction) fn one(place: ViewType) -> Self {
        Self { known: vec![place], ..Self::default() }
    }

    /// All that can stand there; `None` when anything can.
    pub(in crate::reaction) fn known(&self) -> Option<&[ViewType]> {
        (!self.open).then_some(self.known.as_slice())
    }

    pub(in crate::reaction) fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.open
    }

    pub(in crate::reaction) fn add(&mut self, place: Place) {
        match place {
            Some(place) if self.known.contains(&place) => {}
            Some(place) => self.known.push(place),
            None => self.open = true,
        }
    }

    pub(in crate::reaction) fn join(&mut self, other: Self) {
        other.known.into_iter().for_each(|place| self.add(Some(place)));
        self.open |= other.open;
        self.optional |= other.optional;
    }

    /// In the words of its owner.
    pub(in crate::reaction) fn describe(&self) -> &'static str {
        self.known.first().map_or("any value", |place| describe(*place))
    }
}

/// What the member of that name holds; the error says why there is none.
pub(in crate::reaction) fn member(place: ViewType, name: &str, kinds: Kinds<'_>) -> Result<Place, String> {
    match place {
        ViewType::Struct => Ok(None),
        ViewType::Map(value) => Ok(Some(value.view_type())),
        ViewType::Event | ViewType::Message(_) => {
            let Some(field) = place.field(name) else {
                return Err(format!("names an unknown field `{}`{}", shown(name), suggestion(name, place.fields())));
            };
            if let (ViewType::Event, Some(kind)) = (place, payload(name))
                && !kinds.include(kind)
            {
                return Err(format!("names `{name}`, which events of this category and type never have"));
            }
            Ok(Some(field))
        }
        other => Err(format!("names a field `{}` of {}", shown(name), describe(other))),
    }
}

/// A name from the document, short enough to be repeated.
pub(in crate::reaction) fn shown(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    name.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

/// A type in the words of its owner.
pub(in crate::reaction) fn describe(place: ViewType) -> &'static str {
    match place {
        ViewType::Event => "the event",
        ViewType::String => "a string",
        ViewType::Bool => "a bool",
        ViewType::Int { .. } => "an integer",
        ViewType::Double => "a number",
        ViewType::Enum(_) => "a name of a fixed set",
        ViewType::Message(_) | ViewType::Struct => "an object",
        ViewType::List(_) => "a list",
        ViewType::Map(_) => "a map",
    }
}
