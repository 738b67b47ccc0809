//! The types of the nodes that a path can find, known before any event is there.

use super::filters::EventKinds;
use crate::base::nearest::suggestion;
use crate::event::describe::{ViewType, payload};

/// The type of a node of the view; `None` when it can be anything.
pub(in crate::reaction) type NodeType = Option<ViewType>;

/// The possible types of the nodes that a path finds.
#[derive(Clone, Debug, Default)]
pub(in crate::reaction) struct NodeTypes {
    pub(in crate::reaction) known: Vec<ViewType>,
    /// Any other type as well: apps choose the contents of `properties`.
    pub(in crate::reaction) open: bool,
    /// Whether an event may lack such a node.
    pub(in crate::reaction) optional: bool,
}

impl NodeTypes {
    pub(in crate::reaction) fn one(node: ViewType) -> Self {
        Self { known: vec![node], ..Self::default() }
    }

    /// All possible types; `None` when any type is possible.
    pub(in crate::reaction) fn known(&self) -> Option<&[ViewType]> {
        (!self.open).then_some(self.known.as_slice())
    }

    pub(in crate::reaction) fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.open
    }

    pub(in crate::reaction) fn add(&mut self, node: NodeType) {
        match node {
            Some(node) if self.known.contains(&node) => {}
            Some(node) => self.known.push(node),
            None => self.open = true,
        }
    }

    pub(in crate::reaction) fn join(&mut self, other: Self) {
        other.known.into_iter().for_each(|node| self.add(Some(node)));
        self.open |= other.open;
        self.optional |= other.optional;
    }

    /// The first type in the words of the document's author.
    pub(in crate::reaction) fn describe(&self) -> &'static str {
        self.known.first().map_or("any value", |node| describe(*node))
    }
}

/// The type of the member with this name. The error says why there is none.
pub(in crate::reaction) fn member(node: ViewType, name: &str, kinds: EventKinds<'_>) -> Result<NodeType, String> {
    match node {
        ViewType::Struct => Ok(None),
        ViewType::Map(value) => Ok(Some(value.view_type())),
        ViewType::Event | ViewType::Message(_) => {
            let Some(field) = node.field(name) else {
                return Err(format!("names an unknown field `{}`{}", shown(name), suggestion(name, node.fields())));
            };
            if let (ViewType::Event, Some(kind)) = (node, payload(name))
                && !kinds.include(kind)
            {
                return Err(format!("names `{name}`, which events of this category and type never have"));
            }
            Ok(Some(field))
        }
        other => Err(format!("names a field `{}` of {}", shown(name), describe(other))),
    }
}

/// Shortens a name from the document for an error message.
pub(in crate::reaction) fn shown(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    name.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

/// A type in the words of the document's author.
pub(in crate::reaction) fn describe(node: ViewType) -> &'static str {
    match node {
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
